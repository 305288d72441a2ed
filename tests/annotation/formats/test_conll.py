import pytest

from medmt5.annotation.formats.conll import read_conll
from medmt5.annotation.repairs import Repairs
from medmt5.errors import InputError


@pytest.fixture
def read(tmp_path):
    """Returns read(content, label_map) -> (examples, repairs) of a file `train.conll`."""

    def read_content(content, label_map=None):
        path = tmp_path / "train.conll"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        repairs = Repairs()
        return list(read_conll(path, "es", label_map, repairs)), repairs

    return read_content


def test_sentences_are_numbered_from_the_file_name(read):
    examples, repairs = read("Sin\tO\nasma\tB-Disease\n\n\nFin\tO\n")
    assert [(e.id, e.lang, e.words, e.tags) for e in examples] == [
        ("train-1", "es", ("Sin", "asma"), ("O", "B-Disease")),
        ("train-2", "es", ("Fin",), ("O",)),
    ]
    assert not repairs.counts


@pytest.mark.parametrize(
    "content",
    [
        "Sin O\nasma B-Disease\n",
        "Sin  O \r\nasma\tB-Disease\t\r\n\r\n",
        "\ufeffSin NN O\nasma NN B-Disease\n",
        "-DOCSTART- O\n\nSin\tNN\tO\nasma\tNN\tB-Disease",
        "-DOCSTART- -X- O\nSin\t\tO\nasma\t\tB-Disease\n \t\n",
        "Sin O\nasma I-Disease\n",
        "Sin O\nasma U-Disease\n",
        "Sin O\nasma S-Disease\n",
    ],
    ids=["spaces", "crlf", "bom", "columns", "empty column", "IOB1", "BILOU", "IOBES"],
)
def test_separators_columns_and_schemes_of_all_kinds_give_the_same_example(read, content):
    [example] = read(content)[0]
    assert (example.words, example.tags) == (("Sin", "asma"), ("O", "B-Disease"))


def test_a_line_separator_inside_a_line_ends_nothing(read):
    [example] = read("a\u2028b\tO\nc\x85d\tO\n")[0]
    assert example.words == ("a\u2028b", "c\x85d")


def test_invalid_bytes_are_replaced_and_counted_with_their_line(read):
    [example], repairs = read(b"Sin O\n\xc3 O\n")
    assert example.words == ("Sin", "\ufffd")
    assert list(repairs.to_json().values()) == [{"count": 1, "first": [repairs.places["invalid UTF-8 replaced"][0]]}]
    assert repairs.places["invalid UTF-8 replaced"][0].endswith("train.conll:2")


def test_several_words_on_a_line_each_take_its_tag_and_are_counted(read):
    [example], repairs = read("en O\n70 años B-Premise\nde edad I-Premise\nfin O\n")
    assert example.words == ("en", "70", "años", "de", "edad", "fin")
    assert example.tags == ("O", "B-Premise", *["I-Premise"] * 3, "O")
    assert repairs.counts == {"line of several words divided": 2}


@pytest.mark.parametrize("line", ["I-Premise", "\tI-Premise"])
def test_a_tag_whose_word_is_gone_is_dropped_and_counted(read, line):
    [example], repairs = read(f"el B-Premise\n{line}\nfin I-Premise\n")
    assert (example.words, example.tags) == (("el", "fin"), ("B-Premise", "I-Premise"))
    assert repairs.counts == {"tag without a word dropped": 1}


def test_a_span_that_begins_with_i_is_counted(read):
    assert read("asma I-Disease\n")[1].counts == {"span that begins with I- (IOB1)": 1}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("Sin O\nasma\n", "train.conll:2: a line must hold a word and its tag, but has one column; add the tag"),
        ("O\n", "train.conll:1: a line must hold a word and its tag"),
        ("Sin O\nasma X-Disease\n", "train.conll:2: the last column must be O, or B.* not 'X-Disease'"),
        ("Sin O -\n", "train.conll:1: .* not '-'; correct the tag, or remove the columns after it"),
        ("Sin NN O\nasma B-Disease\n", "train.conll:2: every line must have 3 columns as the first one, not 2"),
        ("\tO\n", "train.conll:1: a line must hold a word before the tag O"),
        ("Sin O\nasma B-Diseas\n", "train.conll:2: label 'Diseas' is not in the label map; known are Disease, "),
    ],
)
def test_wrong_lines_are_refused_with_file_line_and_fix(read, content, message):
    with pytest.raises(InputError, match=message):
        read(content)


def test_an_error_never_holds_the_word(read):
    with pytest.raises(InputError) as error:
        read("Sin O\nasma\n")
    assert "asma" not in str(error.value)


def test_labels_are_mapped_and_left_out_as_the_map_says(read):
    [example] = read("asma B-ety\ndice B-verb\nfiebre B-ety\n", {"ety": "ClinicalEntity", "verb": None})[0]
    assert example.tags == ("B-ClinicalEntity", "O", "B-ClinicalEntity")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"no file .*nothing.conll"):
        list(read_conll(tmp_path / "nothing.conll", "es"))


ABSTRCT = "abstrct/{}/argument_components/{}"


@pytest.mark.parametrize(
    ("file", "label_map", "sentences", "words", "spans"),
    # Counts of the publications and of an independent count of the files.
    [
        ("ncbi-disease/conll/train.tsv", None, 5432, 136086, {"Disease": 5145}),
        ("ncbi-disease/conll/devel.tsv", None, 923, 23969, {"Disease": 787}),
        ("e3c/preprocessed_data/clinical_entities/layer1/French/test.txt", "e3c", 605, 16018, {"ClinicalEntity": 695}),
        (ABSTRCT.format("EN", "original_data/neoplasm_dev.tsv"), None, 679, 18192, {"Claim": 108, "Premise": 218}),
        # Four lines hold two words, two hold none: 20,317 lines with a tag, 20,319 words.
        (
            ABSTRCT.format("FR/nllb", "manual_revision/fr_neoplasm_nllb_awesome_dev.tsv"),
            None,
            679,
            20319,
            {"Claim": 108, "Premise": 218},
        ),
    ],
)
def test_published_files_have_the_published_counts(real_data, file, label_map, sentences, words, spans):
    label_map = {"ety": "ClinicalEntity"} if label_map == "e3c" else None
    examples = list(read_conll(real_data / "benchmarks" / file, "en", label_map))
    labels = [span.label for example in examples for span in example.word_spans]
    assert (len(examples), sum(len(e.words) for e in examples)) == (sentences, words)
    assert {label: labels.count(label) for label in set(labels)} == spans
