import zipfile

import pytest

from medmt5.annotation.formats.bioc import read_bioc
from medmt5.annotation.formats.pubtator import read_pubtator
from medmt5.annotation.repairs import Repairs
from medmt5.errors import InputError

LABEL_MAP = {"Disease": "Disease", "Chemical": "Chemical", "Gene": None}
TITLE, ABSTRACT = "Crohn's disease and lithium.", "We gave lithium. Renal and hepatic failure followed."
PUBTATOR = f"""12|t|{TITLE}
12|a|{ABSTRACT}
12\t0\t15\t{TITLE[:15]}\tDisease\tD1
12\t20\t27\tlithium\tChemical\tD2
12\t37\t44\tlithium\tChemical\tD2
12\t46\t71\tRenal and hepatic failure\tDisease\tD3|D4\tRenal failure|hepatic failure

"""


def annotation(type, *locations, text=None, more=""):
    places = "".join(f"<location offset='{start}' length='{length}'/>\n" for start, length in locations)
    copy = "" if text is None else f"<text>{text}</text>"
    return f"<annotation id='0'>\n<infon key='type'>{type}</infon>{more}{places}{copy}</annotation>\n"


def passage(offset, text, *annotations, name="passage"):
    head = f"<infon key='type'>x</infon><offset>{offset}</offset><text>{text}</text>"
    return f"<{name}>{head}{''.join(annotations)}</{name}>\n"


def document(*passages, id="12"):
    return f"<document><id>{id}</id>\n{''.join(passages)}</document>\n"


def collection(*documents):
    head = "<?xml version='1.0' encoding='UTF-8'?><!DOCTYPE collection SYSTEM 'BioC.dtd'>\n"
    return f"{head}<collection><source/><date/><key/>\n{''.join(documents)}</collection>"


INDIVIDUAL = "<infon key='CompositeRole'>IndividualMention</infon>"
COMPOSITE = "<infon key='CompositeRole'>CompositeMention</infon>"


def example_document(abstract_offset=29, id="12"):
    return document(
        passage(
            0,
            TITLE.replace("'", "&apos;"),
            annotation("Disease", (0, 15), text="Crohn&apos;s disease"),
            annotation("Chemical", (20, 7), text="lithium"),
        ),
        passage(
            abstract_offset,
            ABSTRACT,
            annotation("Chemical", (37, 7), text="lithium"),
            annotation("Disease", (46, 25), text="Renal and hepatic failure", more=COMPOSITE),
            annotation("Disease", (46, 5), (64, 7), text="Renal failure", more=INDIVIDUAL),
            annotation("Disease", (56, 15), text="hepatic failure", more=INDIVIDUAL),
            annotation("Gene", (1, 1), text="nowhere"),
            "<relation id='R0'><infon key='relation'>CID</infon></relation>",
        ),
        id=id,
    )


@pytest.fixture
def read(tmp_path):
    """Returns read(content) -> (examples, repairs) of a file `corpus.xml`."""

    def read_content(content):
        (tmp_path / "corpus.xml").write_bytes(content if isinstance(content, bytes) else content.encode())
        repairs = Repairs()
        return list(read_bioc(tmp_path / "corpus.xml", "en", LABEL_MAP, repairs)), repairs

    return read_content


def mentions(examples):
    return [e.text[start:end] for e in examples for start, end, _ in e.spans]


def test_a_corpus_gives_the_same_examples_as_in_pubtator(read, tmp_path):
    examples, repairs = read(collection(example_document()))
    (tmp_path / "corpus.txt").write_text(PUBTATOR)
    assert examples == list(read_pubtator(tmp_path / "corpus.txt", "en", LABEL_MAP))
    assert mentions(examples) == ["Crohn's disease", "lithium", "lithium", "Renal and hepatic failure"]
    assert repairs.counts == {"part of a composite span dropped": 2}


def test_a_passage_whose_offset_counts_escapes_is_put_where_its_annotations_say(read):
    examples, repairs = read(collection(example_document(abstract_offset=34)))
    assert examples == read(collection(example_document()))[0]
    assert repairs.counts == {
        "part of a composite span dropped": 2,
        "passage with a wrong offset put after the one before": 1,
    }


def test_gaps_between_passages_and_annotations_outside_them_are_understood(read):
    examples, repairs = read(
        collection(
            document(
                passage(100, "No asthma.", annotation("Disease", (103, 6), text="asthma")),
                "<passage><offset>500</offset>",
                passage(500, "Some fever.", name="sentence"),
                passage(520, "A cough.", annotation("Disease", (522, 5), text="cough"), name="sentence"),
                "</passage>",
                annotation("Disease", (505, 5), text="fever"),
            )
        )
    )
    assert [e.text for e in examples] == ["No asthma.", "Some fever.", "A cough."]
    assert mentions(examples) == ["asthma", "fever", "cough"]
    assert not repairs.counts


@pytest.mark.parametrize(
    ("line", "found", "repair"),
    [
        (annotation("Disease", (3, 6), text="asthma"), "asthma", None),
        (annotation("Disease", (4, 6), text="asthma"), "asthma", "span moved to its text"),
        (annotation("Disease", (3, 6), text="ASTHMA"), "asthma", "text differs from the annotation's copy"),
        (annotation("Disease", (13, 5), text="fever"), "fever", "offsets in UTF-16 units converted"),
        (annotation("Disease", (15, 5), text="fever"), "fever", "offsets in bytes converted"),
        (annotation("Disease", (3, 6), text="cough"), None, "span whose text is not there dropped"),
        (annotation("Disease", (3, 60), text="cough"), None, "span with wrong offsets dropped"),
        (annotation("Disease", (3, 0)), None, "span with wrong offsets dropped"),
        (annotation("Disease", (3, "x"), text="asthma"), None, "span with wrong offsets dropped"),
        (annotation("Disease", text="asthma"), None, "span with wrong offsets dropped"),
        (annotation("", (3, 6), text="asthma"), None, "span without a type dropped"),
    ],
)
def test_every_annotation_is_kept_or_counted_with_its_line(read, line, found, repair):
    examples, repairs = read(collection(document("\n", passage(0, "No asthma 😀 fever.", line))))
    assert mentions(examples) == ([found] if found else [])
    assert repairs.counts == ({repair: 1} if repair else {})
    assert not repair or repairs.places[repair][0].endswith("corpus.xml:5")


def test_documents_and_spans_twice_are_dropped_and_counted(read):
    twice = passage(0, "No asthma.", *[annotation("Disease", (3, 6), text="asthma")] * 2)
    examples, repairs = read(collection(document(twice), document(twice), document(twice, id="13")))
    assert [(e.id, e.document) for e in examples] == [("12-1", "12"), ("13-1", "13")]
    assert repairs.counts == {
        "document with a repeated id dropped": 1,
        "repeated span dropped": 3,
        "span of a repeated document dropped": 1,
    }


def test_what_lacks_an_id_or_an_offset_is_numbered_and_put_after_the_one_before(read):
    examples, repairs = read(
        collection(
            document(
                passage(0, "Fever."),
                passage("", "No asthma.", annotation("Disease", (10, 6), text="asthma")),
                id="",
            )
        )
    )
    assert [e.id for e in examples] == ["corpus-1-1", "corpus-1-2"]
    assert mentions(examples) == ["asthma"]
    assert repairs.counts == {
        "document without an id numbered": 1,
        "passage without an offset put after the one before": 1,
    }


def test_a_file_inside_an_archive_and_an_empty_file_are_read(tmp_path, read):
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
        archive.writestr("corpus/train.xml", collection(example_document()))
        archive.writestr("corpus/empty.xml", "")
    examples = read(collection(example_document()))[0]
    assert list(read_bioc(tmp_path / "data.zip/corpus/train.xml", "en", LABEL_MAP)) == examples
    repairs = Repairs()
    assert list(read_bioc(tmp_path / "data.zip", "en", LABEL_MAP, repairs)) == examples
    assert repairs.counts["empty file"] == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("<collection>", "corpus.xml:1: the file must be well-formed XML"),
        (collection(document(passage(0, "a"))).replace("collection", "html"), "the root of a BioC file .* not <html>"),
        (collection(document(passage(0, "a b", annotation("Diseaze", (0, 1))))), "corpus.xml:4: label 'Diseaze'"),
    ],
)
def test_what_is_not_the_format_is_refused(read, content, message):
    with pytest.raises(InputError, match=message):
        read(content)


def test_a_folder_without_documents_is_refused(tmp_path):
    with pytest.raises(InputError, match="no BioC documents"):
        list(read_bioc(tmp_path, "en"))
