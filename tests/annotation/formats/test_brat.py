import io
import tarfile
import zipfile
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medmt5.annotation.formats.brat import read_brat, write_brat
from medmt5.annotation.repairs import Repairs
from medmt5.annotation.spans import Span
from medmt5.errors import InputError

TEXT = "No severe asthma. Breast and ovarian cancer.\nEnd."


@pytest.fixture
def read(tmp_path):
    """Returns read(ann, text) -> (examples, repairs) of a document `note`."""

    def read_document(ann, text=TEXT, label_map=None):
        (tmp_path / "note.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
        (tmp_path / "note.ann").write_text(ann, encoding="utf-8")
        repairs = Repairs()
        return list(read_brat(tmp_path, "en", label_map, repairs)), repairs

    return read_document


def mentions(examples):
    return [(e.id, e.text[start:end], label) for e in examples for start, end, label in e.spans]


def test_sentences_keep_document_and_number_and_their_mentions(read):
    examples, repairs = read("T1\tDisease 37 43\tcancer\nT2\tDisease 10 16\tasthma\n")
    assert [e.text for e in examples] == ["No severe asthma.", "Breast and ovarian cancer.", "End."]
    assert mentions(examples) == [("note-1", "asthma", "Disease"), ("note-2", "cancer", "Disease")]
    assert not repairs.counts


def test_relations_attributes_events_and_notes_are_ignored(read):
    lines = [
        "R1\tx Arg1:T1 Arg2:T2",
        "A1\tNegated T1",
        "E1\tx:T1",
        "#1\tAnnotatorNotes T1\tsure?",
        "*\tEquiv T1 T2",
        "N1\tx",
    ]
    assert mentions(read("\n".join([*lines, "T1\tDrug 0 2\tNo", ""]))[0]) == [("note-1", "No", "Drug")]


def test_a_span_in_pieces_becomes_the_one_that_covers_them_and_is_counted(read):
    examples, repairs = read("T1\tDisease 18 24;37 43\tBreast cancer\n")
    assert mentions(examples) == [("note-2", "Breast and ovarian cancer", "Disease")]
    assert repairs.counts == {"span in pieces widened to cover them": 1}


def test_pieces_with_only_white_space_between_them_are_one_span(read):
    examples, repairs = read("T1\tDisease 3 9;10 16\tsevere asthma\n")
    assert mentions(examples) == [("note-1", "severe asthma", "Disease")]
    assert not repairs.counts


def test_a_span_over_two_sentences_joins_them_and_is_counted(read):
    examples, repairs = read("T1\tDisease 10 24\tasthma. Breast\n")
    assert [e.text for e in examples] == ["No severe asthma. Breast and ovarian cancer.", "End."]
    assert repairs.counts == {"sentences joined by a span": 1}


@pytest.mark.parametrize(
    ("line", "text", "mention", "repair"),
    [
        ("T1\tDisease 10 16\tASTHMA", TEXT, "asthma", "text differs from the annotation's copy"),
        ("T1\tDisease 12 18\tasthma", TEXT, "asthma", "span moved to its text"),
        ("T1\tDisease 3 9\tasthma", "😀 asthma", "asthma", "offsets in UTF-16 units converted"),
        ("T1\tDisease 4 10\tasthma", "ñé asthma", "asthma", "span moved to its text"),
        ("T1\tDisease 5 11\tasthma", "ñé asthma", "asthma", "offsets in bytes converted"),
        ("T1\tDisease 10 16\tastma", TEXT, None, "span whose text is not there dropped"),
        ("T1\tDrug 45 50\tEnd", TEXT, "End", "span moved to its text"),
        ("T1\tDrug 45 50\tEnds", TEXT, None, "span with wrong offsets dropped"),
        ("T1\tDrug 5 5\t", TEXT, None, "span with wrong offsets dropped"),
    ],
)
def test_offsets_that_do_not_fit_are_repaired_by_the_copy_or_dropped_and_counted(read, line, text, mention, repair):
    examples, repairs = read(f"\n{line}\n", text)
    assert [found for _, found, _ in mentions(examples)] == ([mention] if mention else [])
    assert repairs.counts == {repair: 1}
    assert repairs.places[repair][0].endswith("note.ann:2")


def test_a_repeated_span_is_kept_once_and_counted(read):
    examples, repairs = read("T1\tDisease 10 16\tasthma\nT2\tDisease 10 16\tasthma\n")
    assert mentions(examples) == [("note-1", "asthma", "Disease")]
    assert repairs.counts == {"repeated span dropped": 1}


@pytest.mark.parametrize(
    ("text", "start"),
    [("No\r\n\r\nasthma", 6), ("\ufeffNo asthma", 4), ("😀 asthma", 2)],
    ids=["crlf", "bom", "astral"],
)
def test_offsets_count_every_code_point_of_the_file(read, text, start):
    examples, repairs = read(f"T1\tDisease {start} {start + 6}\tasthma\n", text)
    assert [mention for _, mention, _ in mentions(examples)] == ["asthma"]
    assert not repairs.counts


def test_invalid_bytes_of_the_text_are_replaced_and_counted(read):
    examples, repairs = read("T1\tDisease 3 9\tasthma\n", b"\xc3\xc3 asthma")
    assert mentions(examples) == [("note-1", "asthma", "Disease")]
    assert repairs.counts == {"invalid UTF-8 replaced": 1}


def test_labels_are_mapped_and_left_out_as_the_map_says(read):
    ann = "T1\tDIS 10 16\tasthma\nT2\tVERB 0 2\tNo\n"
    assert mentions(read(ann, label_map={"DIS": "Disease", "VERB": None})[0]) == [("note-1", "asthma", "Disease")]


@pytest.mark.parametrize(
    ("ann", "message"),
    [
        ("T1\tDrug 0 2\tNo\nT2 Drug 0 2\n", r"note.ann:2: a line must be `T<number>`"),
        (f"T1\tDrug 0 {'9' * 5000}\tNo", r"note.ann:1: a line must be"),
        ("T1\tDisaese 0 2\tNo\n", r"note.ann:1: label 'Disaese' is not in the label map; known are Disease"),
    ],
)
def test_wrong_lines_are_refused_with_file_line_and_fix(read, ann, message):
    with pytest.raises(InputError, match=message):
        read(ann)


@pytest.mark.parametrize(("there", "missing"), [("a.txt", ".ann"), ("a.ann", ".txt")])
def test_half_a_document_is_refused(tmp_path, there, missing):
    (tmp_path / there).write_text("")
    with pytest.raises(InputError, match=rf"a in .* has no \{missing}"):
        list(read_brat(tmp_path, "en"))


def test_a_folder_without_documents_is_refused(tmp_path):
    with pytest.raises(InputError, match="no brat documents"):
        list(read_brat(tmp_path, "en"))


WORD = st.text(st.sampled_from("aéñ1"), min_size=1, max_size=4)


@given(st.lists(WORD, min_size=1, max_size=6), st.sampled_from([" ", "\n", "\r\n", " \n "]), st.data())
def test_what_is_written_is_read_back(tmp_path_factory, words, space, data):
    text = space.join(words)
    start = data.draw(st.integers(0, len(words) - 1))
    first = len(space.join([*words[:start], ""]))
    end = data.draw(st.integers(start + 1, len(words)))
    span = Span(first, first + len(space.join(words[start:end])), "Drug")
    folder = tmp_path_factory.mktemp("brat")
    (folder / "d.txt").write_bytes(text.encode())
    (folder / "d.ann").write_bytes(write_brat(text, [span]).encode())
    [[mention]] = [[e.text[s:t] for s, t, _ in e.spans] for e in read_brat(folder, "en") if e.spans]
    assert mention == text[span.start : span.end]


def test_an_archive_gives_what_its_folder_gives(tmp_path):
    files = {"a/1.txt": "No asthma.", "a/1.ann": "T1\tDisease 3 9\tasthma\n", "a/b/2.txt": "Fever.", "a/b/2.ann": ""}
    with zipfile.ZipFile(tmp_path / "notes.zip", "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(content)
    examples = list(read_brat(tmp_path / "a", "en"))
    assert list(read_brat(tmp_path / "notes.zip/a", "en")) == examples
    assert [(e.id, e.document, len(e.spans)) for e in examples] == [("1-1", "1", 1), ("b/2-1", "b/2", 0)]


def test_a_document_twice_in_an_archive_is_read_once_and_counted(tmp_path):
    with tarfile.open(tmp_path / "notes.tar", "w") as archive:
        for name, content in [("1.txt", b"Asthma"), ("1.ann", b"T1\tDisease 0 6\tAsthma\n")] * 2:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    repairs = Repairs()
    assert [e.id for e in read_brat(tmp_path / "notes.tar", "en", None, repairs)] == ["1-1"]
    assert repairs.counts == {"document with a repeated id dropped": 1, "span of a repeated document dropped": 1}


def test_an_empty_document_is_counted(tmp_path):
    (tmp_path / "1.txt").write_bytes(b"\xef\xbb\xbf\n")
    (tmp_path / "1.ann").write_text("T1\tDisease 0 6\tAsthma\n")
    repairs = Repairs()
    assert not list(read_brat(tmp_path, "en", None, repairs))
    assert repairs.counts == {"empty file": 1, "span with wrong offsets dropped": 1}


PHARMACONER = "benchmarks/pharmaconer/brat/{0}-set.zip/{0}/subtrack1"
STANDOFF = "benchmarks/ncbi-disease/standoff.tar.gz/standoff/{}"
NCBI = dict.fromkeys(("SpecificDisease", "DiseaseClass", "Modifier", "CompositeMention"), "DiseaseNCBI")


@pytest.mark.parametrize(
    ("folder", "label_map", "documents", "spans", "repairs"),
    # Documents and mentions as the owners' files count them: every mention kept, or a drop that is counted.
    [
        (
            PHARMACONER.format("train"),
            None,
            500,
            {"NORMALIZABLES": 2303, "PROTEINAS": 1405, "UNCLEAR": 89, "NO_NORMALIZABLES": 24},
            {
                "span moved to its text": 5,  # by one or two characters
                "overlapping span dropped": 1,  # inside a protein: 2,304 NORMALIZABLES in the files
                "span widened to whole words": 8,
                "sentences joined by a span": 2,
            },
        ),
        (
            PHARMACONER.format("dev"),
            None,
            250,
            {"NORMALIZABLES": 1121, "PROTEINAS": 745, "UNCLEAR": 44, "NO_NORMALIZABLES": 16},
            {"span widened to whole words": 2, "sentences joined by a span": 1},
        ),
        # The document that the PubTator file holds twice lies here under two names: 5,145 mentions.
        (STANDOFF.format("train"), NCBI, 593, {"DiseaseNCBI": 5145}, {"span widened to whole words": 2}),
        (STANDOFF.format("devel"), NCBI, 100, {"DiseaseNCBI": 787}, {}),
        (STANDOFF.format("test"), NCBI, 100, {"DiseaseNCBI": 960}, {}),
    ],
)
def test_published_archives_have_the_published_counts(real_data, folder, label_map, documents, spans, repairs):
    counted = Repairs()
    examples = list(read_brat(real_data / folder, "es", label_map, counted))
    assert len({example.document for example in examples}) == documents
    assert Counter(span.label for example in examples for span in example.spans) == spans
    assert counted.counts == repairs
