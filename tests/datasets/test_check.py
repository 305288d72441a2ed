"""`medmt5 data check` passes only what is exactly accounted for, and says what is not."""

import dataclasses
import json

import pytest

from medmt5.cli import main
from medmt5.datasets.check import check, run_check
from medmt5.datasets.declarations import DATASETS, VARIANTS, find
from medmt5.datasets.declarations.declaration import Difference, Form, LabelledDataset

FILE = "El\tO\nasma\tB-Dis\nes\tO\ngrave\tO\n\nasma\tI-Dis\ngrave\tI-Dis\n"
TOY = LabelledDataset(
    name="toy",
    version="1.0.0",
    languages=("es",),
    labels=("Disease",),
    label_map={"Dis": "Disease"},
    forms=(Form("conll", {"train": ("toy/train.tsv",), "test": ("toy/test.tsv",)}),),
    licence="ours",
    homepage="https://example.org/toy",
    citation="none",
    get="write it",
    published={"es": {"train": {"sentences": 2, "words": 6, "Disease": 1}}},
    differences=(Difference("es", "train", "span that begins with I- (IOB1)", 1, {"Disease": 1}),),
)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy/train.tsv").write_text(FILE, encoding="utf-8")
    (tmp_path / "toy/test.tsv").write_text("El\tO\nasma\tB-Dis\nes\tO\ngrave\tO\n", encoding="utf-8")
    return tmp_path


def problems(dataset, folder):
    return [problem for part in check([dataset], folder).parts for problem in part.problems]


def test_a_difference_that_the_declared_repair_explains_passes(folder):
    report = check([TOY], folder)
    assert report.passed
    train, test = report.parts
    assert train.counts == {"sentences": 2, "words": 6, "Disease": 2}
    assert train.differences == {"Disease": 1}
    assert test.counts == {"sentences": 1, "words": 4, "Disease": 1}
    assert report.leaks == {"toy.es": {"train": {"exact": 1}}}


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"differences": ()}, "Disease: +1 to the published number, of which repairs explain +0"),
        ({"published": {"es": {"train": {"Disease": 2}}}}, "Disease: +0 to the published number, of which"),
        ({"published": {"es": {"train": {"Disease": 0}}}}, "Disease: +2 to the published number, of which"),
        ({"published": {"es": {"train": {"Disease": 1, "words": 7}}}}, "words: -1 to the published number"),
        (
            {"differences": (dataclasses.replace(TOY.differences[0], times=2),)},
            "span that begins with I- (IOB1): 1 times, declared 2",
        ),
    ],
)
def test_anything_else_does_not(folder, changes, problem):
    [found] = problems(dataclasses.replace(TOY, **changes), folder)
    assert found.startswith(problem)


def test_a_repair_that_is_made_no_longer_does_not_pass_either(folder):
    (folder / "toy/train.tsv").write_text(FILE.replace("asma\tI", "asma\tB"), encoding="utf-8")
    assert problems(TOY, folder) == ["span that begins with I- (IOB1): 0 times, declared 1"]


def test_what_is_absent_is_listed_and_no_error_what_cannot_be_read_is_one(folder):
    (folder / "toy/test.tsv").unlink()
    report = check([TOY], folder)
    assert report.passed
    assert list(report.absent) == ["toy.es test"]
    assert report.leaks == {}
    (folder / "toy/train.tsv").write_text("asma\n", encoding="utf-8")
    report = check([TOY], folder)
    assert not report.passed
    assert "train.tsv:1" in report.failures["toy.es"]


def test_words_that_we_divided_are_not_compared(tmp_path, write_instance):
    dataset = find("diann")
    write_instance(dataset, "en", tmp_path)
    parts = {part.part: part for part in check([dataset], tmp_path).parts}
    assert parts["train"].published == {"documents": 400, "sentences": 4782, "Dis": 1413}  # a line is a sentence
    assert parts["train"].counts == {
        "documents": 12,
        "sentences": 12,
        "words": parts["train"].counts["words"],
        "Dis": 12,
    }
    assert 0 < parts["dev of train"].counts["documents"] < 12
    assert parts["dev of train"].published is None


def test_the_command_prints_no_text_and_writes_what_it_prints(tmp_path, write_instance, capsys):
    write_instance(find("sample_diseases"), "es", tmp_path)
    file = tmp_path / "report.json"
    assert main(["data", "check", "sample_diseases", "--data_dir", str(tmp_path), "--json", str(file)]) == 0
    shown = capsys.readouterr().out
    assert "sample_diseases.es" in shown
    assert "niño" not in shown + file.read_text(encoding="utf-8")
    report = json.loads(file.read_text(encoding="utf-8"))
    assert report["passed"]
    assert {part["part"]: part["counts"]["sentences"] for part in report["parts"]} == {
        "train": 12,
        "dev": 12,
        "test": 12,
    }
    assert set(report["absent"]) == {
        f"sample_diseases.{x} {y}" for x in ("en", "fr", "it") for y in ("train", "dev", "test")
    }


def test_the_command_fails_for_wrong_counts_wrong_names_and_no_name(tmp_path, write_instance, capsys):
    write_instance(find("ncbi_disease"), "en", tmp_path)
    assert main(["data", "check", "ncbi_disease", "--data_dir", str(tmp_path)]) == 1
    assert "Not everything could be read or accounted for" in capsys.readouterr().out
    assert main(["data", "check", "ncbi", "--data_dir", str(tmp_path)]) == 2
    assert "did you mean ncbi_disease" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["data", "check", "--data_dir", str(tmp_path)])


def test_nothing_at_all_is_no_success(tmp_path, capsys):
    assert main(["data", "check", "--all", "--data_dir", str(tmp_path)]) == 1
    assert "Nothing was read" in capsys.readouterr().out
    for command in (["data"], ["data", "check", "--all"]):
        assert main([*command, "--data_dir", str(tmp_path / "misspelt")]) == 2
        assert "no folder" in capsys.readouterr().err


def test_names_are_whole_on_a_narrow_terminal(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("MEDMT5_DATA_DIR", raising=False)
    assert main(["data"]) == 0
    shown = capsys.readouterr().out
    assert "…" not in shown
    assert all(f"{dataset.name}.{lang}" in shown for dataset in DATASETS for lang in dataset.languages)


def test_the_list_tells_what_is_there_and_how_to_get_the_rest(tmp_path, write_instance, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    write_instance(find("diann"), "en", tmp_path)
    (tmp_path / "diann/English/English_Test/Annotated").rename(tmp_path / "elsewhere")
    assert main(["data", "--data_dir", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    [line] = [line for line in shown.splitlines() if "diann.en" in line]
    assert "no test" in line
    assert "10% of train" in line
    assert "register at the homepage, fetch CDR_Data.zip" in shown
    assert main(["data", "--long", "--data_dir", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    for dataset in DATASETS:
        assert dataset.citation in shown
    assert "variants: e3c_xmi, e3c_clean" in shown


# In shared data: everything but BC5CDR, the tests of DIANN and PharmaCoNER, and the sample.
ABSENT = {"bc5cdr_chemical", "bc5cdr_disease", "sample_diseases", "sample_treatments"}


def test_real_data_sets_have_the_published_counts_or_explain_each_difference(real_data, tmp_path, capsys):
    file = tmp_path / "report.json"
    assert run_check([], real_data, file) == 0, capsys.readouterr().out
    report = json.loads(file.read_text(encoding="utf-8"))
    assert {part["set"].split(".")[0] for part in report["parts"]} == {
        dataset.name for dataset in (*DATASETS, *VARIANTS) if not dataset.clean
    } - ABSENT
    absent = {name for name in report["absent"] if name.split(".")[0] not in ABSENT}
    assert absent == {"diann.en test", "diann.es test", "pharmaconer.es test"}
