"""Labelled sentences survive the way through TFDS, stale copies are never used, and what is wrong is told plainly."""

import dataclasses
import json

import pytest

from medmt5.annotation.example import LabelledExample
from medmt5.datasets.declarations import LabelledDataset
from medmt5.datasets.declarations.declaration import Form
from medmt5.datasets.sequence_labelling import LabelledSource, to_labelled_example
from medmt5.errors import InputError

CONLL = "El\tO\nniño\tO\ntiene\tO\nasma\tB-Dis\ngrave\tI-Dis\n\n<Disease>\tO\n\n"
DECLARATION = LabelledDataset(
    name="toy",
    version="1.0.0",
    languages=("es",),
    labels=("Disease",),
    label_map={"Dis": "Disease"},
    forms=(Form("conll", {"train": ("toy/{lang}/train.{LANG}.tsv",), "dev": ("toy/{lang}/dev.tsv",)}),),
    licence="ours",
    homepage="https://example.org/toy",
    citation="none",
    get="write it",
)


@pytest.fixture
def raw(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDMT5_DATA_DIR", str(tmp_path / "raw"))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    folder = tmp_path / "raw/toy/es"
    folder.mkdir(parents=True)
    (folder / "train.ES.tsv").write_text(CONLL, encoding="utf-8")
    (folder / "dev.tsv").write_text("No\tO\n", encoding="utf-8")
    return folder


def read(split="train", declaration=DECLARATION, shuffle=False):
    dataset = LabelledSource(declaration, "es").get_dataset(split, shuffle=shuffle, seed=0)
    return [to_labelled_example(features) for features in dataset.as_numpy_iterator()]


def test_examples_come_in_order_as_the_reader_made_them(raw):
    words = ["El", "niño", "tiene", "asma", "grave"]
    tags = ["O", "O", "O", "B-Disease", "I-Disease"]
    assert read() == [
        LabelledExample.from_words("train.ES-1", "es", words, tags),
        LabelledExample.from_words("train.ES-2", "es", ["<Disease>"], ["O"]),
    ]
    assert [example.words for example in read("dev")] == [("No",)]
    assert {example.id for example in read(shuffle=True)} == {"train.ES-1", "train.ES-2"}
    source = LabelledSource(DECLARATION, "es")
    assert source.splits == ("train", "dev")
    assert source.num_input_examples("train") == 2


def test_changed_files_and_changed_declarations_are_read_anew(raw):
    before = LabelledSource(DECLARATION, "es").digest()
    assert len(read()) == 2
    with (raw / "train.ES.tsv").open("a", encoding="utf-8") as file:
        file.write("Otra\tO\n")
    assert len(read()) == 3
    ignoring = dataclasses.replace(DECLARATION, label_map={"Dis": None})
    assert read(declaration=ignoring)[0].spans == ()
    assert len({before, *(LabelledSource(d, "es").digest() for d in (DECLARATION, ignoring))}) == 3


def test_unchanged_files_are_read_once(raw, tmp_path):
    read()
    [made] = (tmp_path / "tfds").rglob("dataset_info.json")
    before = made.stat().st_mtime_ns
    read()
    assert [path.stat().st_mtime_ns for path in (tmp_path / "tfds").rglob("dataset_info.json")] == [before]


def test_repairs_are_printed_once_and_kept_with_the_data(raw, tmp_path, capsys):
    (raw / "train.ES.tsv").write_bytes(b"ni\xf1o\tO\nasma\tI-Dis\n")
    read()
    shown = capsys.readouterr()
    assert "invalid UTF-8" in shown.err
    assert shown.out == ""
    read()
    assert capsys.readouterr().err == ""
    [metadata] = (tmp_path / "tfds").rglob("metadata.json")
    repairs = json.loads(metadata.read_text(encoding="utf-8"))["repairs"]
    assert repairs["invalid UTF-8 replaced"]["count"] == 1


def test_a_missing_file_an_unset_folder_and_a_bad_line_are_input_errors(raw, monkeypatch):
    (raw / "train.ES.tsv").write_text("asma\tB-Otro\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"train\.ES\.tsv:1: label 'Otro' is not in the label map"):
        read()
    (raw / "train.ES.tsv").unlink()
    with pytest.raises(InputError, match=r"train\.ES\.tsv is missing.*or set MEDMT5_DATA_DIR \(now "):
        read()
    monkeypatch.delenv("MEDMT5_DATA_DIR")
    with pytest.raises(InputError, match="set MEDMT5_DATA_DIR"):
        read()


def test_a_file_without_sentences_is_an_input_error(raw):
    (raw / "dev.tsv").write_text("\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"dev\.tsv holds no sentences"):
        read()


def test_a_failed_reading_leaves_no_data_to_be_used(raw):
    good = (raw / "dev.tsv").read_bytes()
    (raw / "dev.tsv").write_text("asma\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"dev\.tsv:1"):
        read()
    with pytest.raises(InputError, match=r"dev\.tsv:1"):
        read()
    (raw / "dev.tsv").write_bytes(good)
    assert len(read()) == 2
