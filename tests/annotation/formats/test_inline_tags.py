import pytest

from medmt5.annotation.formats.inline_tags import read_inline_tags
from medmt5.annotation.repairs import Repairs
from medmt5.errors import InputError

LABEL_MAP = {"dis": "Dis", "neg": None, "scp": None}


@pytest.fixture
def read(tmp_path):
    """Returns read(text) -> (examples, repairs) of a document `abstract`."""

    def read_document(text):
        (tmp_path / "abstract.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
        repairs = Repairs()
        return list(read_inline_tags(tmp_path, "en", LABEL_MAP, repairs)), repairs

    return read_document


def mentions(examples):
    return [e.text[start:end] for e in examples for start, end, _ in e.spans]


def test_tags_are_taken_out_and_those_with_a_label_become_spans(read):
    examples, repairs = read(
        "Title\n Is <scp><neg>without</neg> <dis>loss of vision </dis></scp>. \n\n<dis>Deaf</dis>.\n"
    )
    assert [(e.id, e.text) for e in examples] == [
        ("abstract-1", "Title"),
        ("abstract-2", "Is without loss of vision ."),
        ("abstract-3", "Deaf."),
    ]
    assert [(e.text[s:t], label) for e in examples for s, t, label in e.spans] == [
        ("loss of vision", "Dis"),
        ("Deaf", "Dis"),
    ]
    assert not repairs.counts


def test_angle_brackets_of_text_stay_and_references_become_characters(read):
    examples, repairs = read("p < .05 &amp; <dis>MCI &lt; 3</dis> (<10, 5>3) &#233;&#xe9; &nbsp; <p.001 x<0>")
    assert [e.text for e in examples] == ["p < .05 & MCI < 3 (<10, 5>3) éé &nbsp; <p.001 x<0>"]
    assert mentions(examples) == ["MCI < 3"]
    assert not repairs.counts


@pytest.mark.parametrize(
    ("text", "found", "counts"),
    [
        ("a <dis>b <dis>c</dis> d</dis> e", ["b c d"], {"overlapping span dropped": 1}),
        ("a <dis>b <scp>c</dis> d</scp> e", ["b c"], {}),
        ("a <dis>b c <dis>d</dis> e", ["d"], {"span that is never closed dropped": 1}),
        ("a <dis>b</dis> c</dis> d", ["b"], {"closing tag without an opening one left out": 1}),
        ("a <dis> </dis> b", [], {"span without a word dropped": 1}),
        ("a <dis></dis> b", [], {"span with wrong offsets dropped": 1}),
        ("a <scp> b </neg> c", [], {}),
        ("a <b>x</b> <dis>y</dis>", ["y"], {"tag that is not in the label map left as text": 2}),
        ("a hearing<dis>loss</dis>es", ["hearinglosses"], {"span widened to whole words": 1}),
        ("one <dis>two. Three</dis> four. Five.", ["two. Three"], {}),
        ("one <dis>two\nthree</dis> four", ["two\nthree"], {"sentences joined by a span": 1}),
        (b"a <dis>ni\xf1o</dis>", ["niño"], {"invalid UTF-8 read as CP1252": 1}),
        ("\ufeff<dis>a</dis>\r\n<dis>b</dis>\r\n", ["a", "b"], {}),
        ("", [], {"empty file": 1}),
    ],
)
def test_every_opening_tag_becomes_a_span_or_is_counted(read, text, found, counts):
    examples, repairs = read(text)
    assert mentions(examples) == found
    assert repairs.counts == counts


def test_repairs_name_the_line_of_the_tag(read):
    repairs = read("a\n\n<dis>b</dis> <dis> c\n\n</i> </dis></dis>")[1]
    assert [(kind, places[0].rsplit("/", 1)[1]) for kind, places in repairs.places.items()] == [
        ("tag that is not in the label map left as text", "abstract.txt:5"),
        ("closing tag without an opening one left out", "abstract.txt:5"),
        ("sentences joined by a span", "abstract.txt"),
    ]


def test_a_folder_without_documents_is_refused(tmp_path):
    with pytest.raises(InputError, match="no documents"):
        list(read_inline_tags(tmp_path, "en"))


def test_many_open_tags_take_linear_time(read):
    assert read("<dis>" * 50_000)[1].counts == {"span that is never closed dropped": 50_000}


@pytest.mark.parametrize(
    ("lang", "folder", "documents", "sentences", "spans"),
    [
        ("en", "English/English_Training", 400, 4782, 1413),
        ("es", "Spanish/Spanish_Training", 400, 4639, 1326),
    ],
)
def test_diann_has_the_published_counts(real_data, lang, folder, documents, sentences, spans):
    repairs = Repairs()
    path = real_data / f"benchmarks/diann/diann_train_{lang}.tar.gz/{folder}/Annotated"
    examples = list(read_inline_tags(path, lang, LABEL_MAP, repairs))
    assert len({e.document for e in examples}) == documents
    assert (len(examples), len(mentions(examples))) == (sentences, spans)
    assert not repairs.counts
