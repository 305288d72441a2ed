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


def test_the_second_document_of_an_id_is_dropped_and_counted(read):
    examples, repairs = read(FILE + "\n12|t|Other\n12|a|Text\n")
    assert [e.id for e in examples] == ["12-1", "12-2", "12-3", "13-1"]
    assert repairs.counts == {"document with a repeated id dropped": 1}
    assert repairs.places["document with a repeated id dropped"][0].endswith("corpus.txt:11")


def test_text_that_differs_from_its_copy_is_counted_and_offsets_hold(read):
    examples, repairs = read("1|t|No asthma\n1|a|x\n1\t3\t9\tastma\tModifier\tD1\n")
    assert [e.text[s:t] for e in examples for s, t, _ in e.spans] == ["asthma"]
    assert repairs.counts == {"text differs from the annotation's copy": 1}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("1\t0\t1\tx\tModifier\tD1\n", "corpus.txt:1: a document must begin with `<id>|t|<title>`".replace("|", r"\|")),
        ("1|t|No\n1|a|x\n2\t0\t1\tx\tModifier\tD1\n", "corpus.txt:3: a line of document 2 inside document 1"),
        (
            "1|t|No\n1|a|x\n1\t0\t9\tx\tModifier\tD1\n",
            "corpus.txt:3: offsets must rise within the 4 characters .* not 0 9",
        ),
        ("1|t|No\n1|a|x\n1\t0\t2\tNo\tDiseaze\tD1\n", "corpus.txt:3: label 'Diseaze' .* known are SpecificDisease"),
        ("1|t|No\n1|a|x\nnonsense\n", "corpus.txt:3: a line must be"),
    ],
)
def test_wrong_lines_are_refused_with_file_line_and_fix(read, content, message):
    with pytest.raises(InputError, match=message):
        read(content)


@pytest.mark.parametrize(
    ("file", "words", "spans"),
    # The published counts of the de-duplicated corpus: words cut as here, every mention kept.
    [
        ("train/NCBItrainset", 135_701, 5134),
        ("devel/NCBIdevelopset", 23_969, 787),
        ("test/NCBItestset", 24_497, 960),
    ],
)
def test_ncbi_disease_has_the_published_counts(real_data, file, words, spans):
    types = ("SpecificDisease", "DiseaseClass", "Modifier", "CompositeMention")
    path = real_data / f"benchmarks/ncbi-disease/original-data/{file}_corpus.txt"
    examples = list(read_pubtator(path, "en", dict.fromkeys(types, "DiseaseNCBI")))
    assert (sum(len(e.words) for e in examples), sum(len(e.spans) for e in examples)) == (words, spans)
