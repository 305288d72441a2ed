import zipfile

import pytest

from medmt5.annotation.formats.pubtator import read_pubtator
from medmt5.annotation.repairs import Repairs
from medmt5.errors import InputError

LABEL_MAP = {"SpecificDisease": "DiseaseNCBI", "Modifier": "DiseaseNCBI", "Gene": None}
FILE = """
12|t|Asthma in adults.
12|a|We saw asthma. None died.
12\t0\t6\tAsthma\tSpecificDisease\tD001
12\t25\t31\tasthma\tModifier\tD001|D002

13|t|Title
13|a|
13\tCID\tD001\tD002
"""


@pytest.fixture
def read(tmp_path):
    """Returns read(content) -> (examples, repairs) of a file `corpus.txt`."""

    def read_content(content):
        path = tmp_path / "corpus.txt"
        path.write_text(content, encoding="utf-8")
        repairs = Repairs()
        return list(read_pubtator(path, "en", LABEL_MAP, repairs)), repairs

    return read_content


def test_title_and_abstract_become_sentences_with_their_mentions(read):
    examples, repairs = read(FILE)
    assert [(e.id, e.text, [e.text[s:t] for s, t, _ in e.spans]) for e in examples] == [
        ("12-1", "Asthma in adults.", ["Asthma"]),
        ("12-2", "We saw asthma.", ["asthma"]),
        ("12-3", "None died.", []),
        ("13-1", "Title", []),
    ]
    assert {span.label for e in examples for span in e.spans} == {"DiseaseNCBI"}
    assert not repairs.counts


def test_the_second_document_of_an_id_is_dropped_and_counted_with_its_spans(read):
    mentions = "12\t0\t5\tOther\tModifier\tD1\n12\t6\t10\tText\tGene\t1\n"
    examples, repairs = read(f"{FILE}\n12|t|Other\n12|a|Text\n{mentions}")
    assert [e.id for e in examples] == ["12-1", "12-2", "12-3", "13-1"]
    assert repairs.counts == {"document with a repeated id dropped": 1, "span of a repeated document dropped": 1}
    assert repairs.places["document with a repeated id dropped"][0].endswith("corpus.txt:11")
    assert repairs.places["span of a repeated document dropped"][0].endswith("corpus.txt:13")


@pytest.mark.parametrize(
    ("mention", "spans", "repair"),
    [
        ("1\t3\t9\tASTHMA\tModifier\tD1", ["asthma"], "text differs from the annotation's copy"),
        ("1\t2\t8\tasthma\tModifier\tD1", ["asthma"], "span moved to its text"),
        ("1\t0\t19\tasthma\tModifier\tD1", ["asthma"], "span moved to its text"),
        ("1\t3\t9\tfever\tModifier\tD1", [], "span whose text is not there dropped"),
        ("1\t3\t99\tfever\tModifier\tD1", [], "span with wrong offsets dropped"),
        ("1\t9\t3\tfever\tModifier\tD1", [], "span with wrong offsets dropped"),
    ],
)
def test_offsets_that_do_not_fit_are_repaired_by_the_copy_or_dropped_and_counted(read, mention, spans, repair):
    examples, repairs = read(f"1|t|No asthma\n1|a|x\n{mention}\n")
    assert [e.text[s:t] for e in examples for s, t, _ in e.spans] == spans
    assert repairs.to_json()[repair]["first"][0].endswith("corpus.txt:3")
    assert repairs.counts == {repair: 1}


def test_a_file_inside_an_archive_is_read(tmp_path):
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
        archive.writestr("corpus/train.txt", FILE)
    examples = read_pubtator(tmp_path / "data.zip/corpus/train.txt", "en", LABEL_MAP)
    assert [e.id for e in examples] == ["12-1", "12-2", "12-3", "13-1"]


def test_an_empty_file_is_counted(read):
    examples, repairs = read("")
    assert not examples
    assert repairs.counts == {"empty file": 1}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("1\t0\t1\tx\tModifier\tD1\n", "corpus.txt:1: a document must begin with `<id>|t|<title>`".replace("|", r"\|")),
        ("1|t|No\n1|a|x\n2\t0\t1\tx\tModifier\tD1\n", "corpus.txt:3: a line of document 2 inside document 1"),
        ("1|t|No\n1|a|x\n1\t0\t2\tNo\tDiseaze\tD1\n", "corpus.txt:3: label 'Diseaze' .* known are SpecificDisease"),
        ("1|t|No\n1|a|x\nnonsense\n", "corpus.txt:3: a line must be"),
    ],
)
def test_wrong_lines_are_refused_with_file_line_and_fix(read, content, message):
    with pytest.raises(InputError, match=message):
        read(content)


@pytest.mark.parametrize(
    ("file", "documents", "words", "spans", "repairs"),
    # The published counts of the de-duplicated corpus: words cut as here, every mention kept. Of the 5,145 in the file
    # 11 stand in a document that is there twice.
    [
        (
            "train/NCBItrainset",
            592,
            135_701,
            5134,
            {
                "document with a repeated id dropped": 1,
                "span of a repeated document dropped": 11,
                "span widened to whole words": 2,
            },
        ),
        ("devel/NCBIdevelopset", 100, 23_969, 787, {}),
        ("test/NCBItestset", 100, 24_497, 960, {}),
    ],
)
def test_ncbi_disease_has_the_published_counts(real_data, file, documents, words, spans, repairs):
    types = ("SpecificDisease", "DiseaseClass", "Modifier", "CompositeMention")
    path = real_data / f"benchmarks/ncbi-disease/original-data/{file}_corpus.txt"
    counted = Repairs()
    examples = list(read_pubtator(path, "en", dict.fromkeys(types, "DiseaseNCBI"), counted))
    assert len({e.document for e in examples}) == documents
    assert (sum(len(e.words) for e in examples), sum(len(e.spans) for e in examples)) == (words, spans)
    assert counted.counts == repairs
