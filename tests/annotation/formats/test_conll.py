from collections import Counter

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


@pytest.mark.parametrize("line", ["I-Premise", "\tI-Premise", "\tO", " \tI-Premise"])
def test_a_tag_whose_word_is_gone_is_dropped_and_counted(read, line):
    [example], repairs = read(f"el B-Premise\n{line}\nfin I-Premise\n")
    assert (example.words, example.tags) == (("el", "fin"), ("B-Premise", "I-Premise"))
    assert repairs.counts == {"tag without a word dropped": 1}


def test_an_empty_word_of_many_columns_is_dropped_and_counted(read):
    [example], repairs = read("el\tx\tO\n\tx\tB-Premise\nfin\tx\tO\n")
    assert example.words == ("el", "fin")
    assert repairs.counts == {"tag without a word dropped": 1}


def test_an_empty_file_is_counted(read):
    examples, repairs = read("\n")
    assert not examples
    assert repairs.counts == {"empty file": 1}


def test_a_span_that_begins_with_i_is_counted(read):
    assert read("asma I-Disease\n")[1].counts == {"span that begins with I- (IOB1)": 1}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("Sin O\nasma\n", "train.conll:2: a line must hold a word and its tag, but has one column; add the tag"),
        ("O\n", "train.conll:1: a line must hold a word and its tag"),
        ("Sin O\nasma X-Disease\n", "train.conll:2: the last column must be O, or B.* .it is not shown"),
        ("Sin O -\n", "train.conll:1: .*; correct the tag, or remove the columns after it"),
        ("Sin NN O\nasma B-Disease\n", "train.conll:2: every line must have 3 columns as the first one, not 2"),
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


E3C = {"ety": "ClinicalEntity"}
PHARMACONER = {
    "NORMALIZABLES": "NORMALIZABLES",
    "PROTEINAS": "PROTEINAS",
    "NOTNORMALIZABLES": "NO_NORMALIZABLES",
}
# Sentences, words and spans of each label, as the publications and an independent count of the files give them.
PUBLISHED = {
    "ncbi-disease/conll/{}.tsv": {
        "train": (5432, 136086, {"Disease": 5145}),
        "devel": (923, 23969, {"Disease": 787}),
        "test": (940, 24497, {"Disease": 960}),
    },
    "e3c/preprocessed_data/clinical_entities/{}.txt": {
        "layer1/English/train": (669, 12657, {"ClinicalEntity": 437}),
        "layer1/English/test": (851, 16702, {"ClinicalEntity": 516}),
        "layer1/Spanish/train": (455, 11750, {"ClinicalEntity": 509}),
        "layer1/Spanish/test": (679, 17065, {"ClinicalEntity": 800}),
        "layer1/French/train": (504, 13238, {"ClinicalEntity": 569}),
        "layer1/French/test": (605, 16018, {"ClinicalEntity": 695}),
        "layer1/Italian/train": (451, 12379, {"ClinicalEntity": 345}),
        "layer1/Italian/test": (673, 16912, {"ClinicalEntity": 460}),
        "layer2/English/text": (2873, 59006, {"ClinicalEntity": 2140}),
        "layer2/Spanish/text": (2347, 57875, {"ClinicalEntity": 2625}),
        "layer2/French/text": (2389, 58523, {"ClinicalEntity": 2033}),
        "layer2/Italian/text": (2436, 61992, {"ClinicalEntity": 1686}),
    },
    "pharmaconer/iob/{}.txt": {
        "train": (9411, 247772, {"NORMALIZABLES": 3083, "PROTEINAS": 1929, "NO_NORMALIZABLES": 35}),
        "dev": (1046, 27784, {"NORMALIZABLES": 338, "PROTEINAS": 220, "NO_NORMALIZABLES": 5}),
        "test": (3403, 90289, {"NORMALIZABLES": 973, "PROTEINAS": 859, "NO_NORMALIZABLES": 10}),
    },
    "abstrct/EN/argument_components/original_data/{}.tsv": {
        "neoplasm_train": (4404, 120300, {"Claim": 730, "Premise": 1535}),
        "neoplasm_dev": (679, 18192, {"Claim": 108, "Premise": 218}),
        "neoplasm_test": (1251, 34033, {"Claim": 248, "Premise": 438}),
        "glaucoma_test": (1247, 31354, {"Claim": 190, "Premise": 404}),
        "mixed_test": (1147, 32341, {"Claim": 212, "Premise": 388}),
    },
    "abstrct/ES/nllb/argument_components/manual_revision/es_{}.tsv": {
        "neoplasm_nllb_awesome_train": (4404, 128676, {"Claim": 729, "Premise": 1535}),
        "neoplasm_nllb_awesome_dev": (679, 19169, {"Claim": 108, "Premise": 218}),
        "neoplasm_nllb_awesome_test": (1251, 35942, {"Claim": 248, "Premise": 438}),
        "glaucoma_nllb_awesome_test": (1247, 33376, {"Claim": 190, "Premise": 404}),
        "mixed_nllb_awesome_test": (1147, 34083, {"Claim": 212, "Premise": 388}),
    },
    "abstrct/FR/nllb/argument_components/manual_revision/fr_{}.tsv": {
        "neoplasm_nllb_awesome_train": (4404, 134446, {"Claim": 730, "Premise": 1536}),
        "neoplasm_nllb_awesome_dev": (679, 20317, {"Claim": 108, "Premise": 218}),
        "neoplasm_nllb_awesome_test": (1251, 38008, {"Claim": 248, "Premise": 438}),
        "glaucoma_nllb_awesome_test": (1247, 34412, {"Claim": 190, "Premise": 404}),
        "mixed_nllb_awesome_test": (1147, 35592, {"Claim": 212, "Premise": 388}),
    },
    "abstrct/IT/nllb/argument_components/manual_revision/it_{}.tsv": {
        "neoplasm_nllb_awesome_train": (4405, 122911, {"Claim": 730, "Premise": 1535}),
        "neoplasm_nllb_awesome_dev": (679, 18551, {"Claim": 108, "Premise": 218}),
        "neoplasm_nllb_awesome_test": (1251, 34767, {"Claim": 248, "Premise": 438}),
        "glaucoma_nllb_awesome_test": (1247, 32232, {"Claim": 190, "Premise": 404}),
        "mixed_nllb_awesome_test": (1147, 32803, {"Claim": 212, "Premise": 388}),
    },
}
# What the publications count otherwise: our number less theirs in words, spans of a label, and the repairs that say so.
DIFFERENCES = {
    # They count B- tags only.
    "abstrct/EN/argument_components/original_data/neoplasm_train.tsv": (
        0,
        {"Premise": 1},
        {"span that begins with I- (IOB1)": 1},
    ),
    # They count lines.
    "abstrct/FR/nllb/argument_components/manual_revision/fr_neoplasm_nllb_awesome_dev.tsv": (
        4 - 2,
        {},
        {"invalid UTF-8 replaced": 10, "line of several words divided": 4, "tag without a word dropped": 2},
    ),
}


@pytest.mark.parametrize(
    ("file", "published"),
    [(folder.format(name), counts) for folder, files in PUBLISHED.items() for name, counts in files.items()],
)
def test_published_files_have_the_published_counts(real_data, file, published):
    label_map = {"e3c": E3C, "pharmaconer": PHARMACONER}.get(file.split("/")[0])
    repairs = Repairs()
    examples = list(read_conll(real_data / "benchmarks" / file, "en", label_map, repairs))
    sentences, words, spans = published
    more_words, more_spans, explained = DIFFERENCES.get(file, (0, {}, {}))
    assert (len(examples), sum(len(e.words) for e in examples)) == (sentences, words + more_words)
    assert Counter(span.label for e in examples for span in e.word_spans) == Counter(spans) + Counter(more_spans)
    assert repairs.counts == explained
