"""Every declared set is read from its raw files, in every form; splits are disjoint, whole and stay as they are."""

import shutil

import pytest

from medmt5.annotation.repairs import Repairs
from medmt5.datasets.declarations import DATASETS, VARIANTS, find
from medmt5.datasets.raw_files import RawFiles, data_folder, find_files, require_files
from medmt5.datasets.reading import find_leaked, read_part, read_split, splits_there
from medmt5.errors import InputError

ALL = [dataset for dataset in (*DATASETS, *VARIANTS) if not dataset.clean]


def read(dataset, lang, folder, split, repairs=None):
    files = require_files(dataset, lang, folder)
    return list(read_split(dataset, lang, files, split, repairs if repairs is not None else Repairs()))


@pytest.mark.parametrize("dataset", ALL, ids=lambda dataset: dataset.name)
def test_every_set_is_read_in_every_form_and_language_without_a_repair(
    dataset, tmp_path, write_instance, make_documents
):
    for lang in dataset.languages:
        for number, form in enumerate(dataset.forms_of(lang)):
            folder = tmp_path / lang / str(number)
            write_instance(dataset, lang, folder, form)
            files = find_files(dataset, lang, folder)
            assert files.form == form
            repairs = Repairs()
            for part in dataset.parts:
                examples = list(read_part(dataset, lang, files, part, repairs))
                documents = make_documents(dataset, lang, part)
                spans = [
                    (text[start:end], ours)
                    for _, text, marked in documents
                    for start, end, label in marked
                    if (ours := dataset.label_map[label])
                ]
                read = [(e.text[s.start : s.end], s.label) for e in examples for s in e.spans]
                assert sorted(read) == sorted(spans)
                assert {e.lang for e in examples} == {lang}
                assert len({e.id for e in examples}) == len(examples)
            assert not repairs.counts
        shutil.rmtree(tmp_path / lang)


@pytest.mark.parametrize("name", ["bc5cdr_disease", "bc5cdr_chemical"])
def test_both_forms_of_bc5cdr_give_the_same_examples(name, tmp_path, write_instance):
    dataset = find(name)
    both = []
    for form in dataset.forms:
        write_instance(dataset, "en", tmp_path / form.format, form)
        splits = [read(dataset, "en", tmp_path / form.format, split) for split in dataset.splits]
        assert all(splits)
        both.append(splits)
    assert both[0] == both[1]


@pytest.mark.parametrize("name", ["diann", "e3c", "e3c_xmi"])
def test_dev_is_whole_documents_of_train_each_in_one_split(name, tmp_path, write_instance):
    dataset = find(name)
    lang = "en"
    write_instance(dataset, lang, tmp_path)
    files = require_files(dataset, lang, tmp_path)
    assert splits_there(dataset, files) == dataset.splits == ("train", "dev", "test")
    whole = list(read_part(dataset, lang, files, "train", Repairs()))
    train, dev = (read(dataset, lang, tmp_path, split) for split in ("train", "dev"))
    assert train
    assert dev
    assert not {e.document for e in train} & {e.document for e in dev}
    assert sorted(train + dev, key=whole.index) == whole


def test_a_document_stays_in_its_split_when_others_come(tmp_path, write_instance):
    dataset = find("diann")
    write_instance(dataset, "es", tmp_path)
    before = {e.document for e in read(dataset, "es", tmp_path, "dev")}
    for number in range(50):
        (tmp_path / f"diann/Spanish/Spanish_Training/Annotated/new{number}.txt").write_text("Nada.", encoding="utf-8")
    after = {e.document for e in read(dataset, "es", tmp_path, "dev")}
    assert {name for name in after if not name.startswith("new")} == before
    assert before < after


def test_repairs_of_a_part_that_makes_two_splits_are_counted_once(tmp_path, write_instance):
    dataset = find("diann")
    write_instance(dataset, "en", tmp_path)
    for file in sorted((tmp_path / "diann/English/English_Training/Annotated").glob("*.txt")):
        file.write_bytes(file.read_bytes() + b" \xff")
    repairs = Repairs()
    for split in ("train", "dev", "test"):
        read(dataset, "en", tmp_path, split, repairs)
    assert list(repairs.counts.values()) == [12]


def test_repairs_of_listed_documents_are_counted_with_their_own_part(tmp_path, write_instance):
    dataset = find("e3c_xmi")
    write_instance(dataset, "it", tmp_path)
    file = tmp_path / "e3c/data_annotation/Italian/layer1/train3.xml"
    mention = '<custom:CLINENTITY xmi:id="99" sofa="1" begin="0" end="9999"/>'
    file.write_text(file.read_text(encoding="utf-8").replace("<cas:Sofa", f"{mention}<cas:Sofa"), encoding="utf-8")
    files = require_files(dataset, "it", tmp_path)
    counted = {}
    for part in ("train", "test"):
        counted[part] = Repairs()
        assert len(list(read_part(dataset, "it", files, part, counted[part]))) == 12
    assert sum(counted["train"].counts.values()) == 1
    assert not counted["test"].counts


def test_an_archive_and_the_folder_made_of_it_give_the_same(tmp_path, write_instance):
    dataset = find("diann")
    write_instance(dataset, "en", tmp_path / "unpacked")
    (tmp_path / "packed/diann").mkdir(parents=True)
    shutil.make_archive(str(tmp_path / "packed/diann/english"), "zip", tmp_path / "unpacked/diann", "English")
    for split in dataset.splits:
        assert read(dataset, "en", tmp_path / "packed", split) == read(dataset, "en", tmp_path / "unpacked", split)


def test_a_release_of_another_size_than_its_documents_is_refused(tmp_path, write_instance):
    dataset = find("e3c")
    write_instance(dataset, "fr", tmp_path)
    file = tmp_path / "e3c/preprocessed_data/clinical_entities/layer1/French/train.txt"
    content = file.read_text(encoding="utf-8")
    for changed in (content + "\nhoy\tO\n", content[: content.rindex("\n\nCaso")] + "\n"):
        file.write_text(changed, encoding="utf-8")
        with pytest.raises(InputError, match=r"train\.txt holds 50[35] sentences, but its documents have 504"):
            read(dataset, "fr", tmp_path, "train")


def test_only_a_test_may_be_missing(tmp_path, write_instance):
    dataset = find("ncbi_disease")
    with pytest.raises(InputError, match=r"NCBItrainset_corpus\.txt is missing, a part of ncbi_disease\.en"):
        require_files(dataset, "en", tmp_path)
    write_instance(dataset, "en", tmp_path)
    (tmp_path / "ncbi-disease/original-data/test/NCBItestset_corpus.txt").unlink()
    files = require_files(dataset, "en", tmp_path)
    assert splits_there(dataset, files) == ("train", "dev")
    with pytest.raises(InputError, match="what leaked from a test can only be found with the test"):
        find_leaked(find("ncbi_disease_clean"), "en", tmp_path)
    (tmp_path / "ncbi-disease/original-data/devel/NCBIdevelopset_corpus.txt").unlink()
    with pytest.raises(InputError, match=r"NCBIdevelopset_corpus.txt is missing.*to get it: medmt5 data get"):
        require_files(dataset, "en", tmp_path)


def test_the_data_directory_may_hold_the_sets_as_benchmarks(tmp_path, monkeypatch):
    assert data_folder(tmp_path) == tmp_path
    (tmp_path / "benchmarks").mkdir()
    assert data_folder(tmp_path) == tmp_path / "benchmarks"
    monkeypatch.setenv("MEDMT5_DATA_DIR", str(tmp_path))
    assert data_folder() == tmp_path / "benchmarks"
    monkeypatch.delenv("MEDMT5_DATA_DIR")
    with pytest.raises(InputError, match="set MEDMT5_DATA_DIR"):
        data_folder()


def test_the_digest_follows_every_file_of_a_folder_and_the_list(tmp_path, write_instance):
    dataset = find("e3c_xmi")
    write_instance(dataset, "en", tmp_path)
    digests = [find_files(dataset, "en", tmp_path).digest()]
    for name in ("data_annotation/English/layer1/test1.xml", "documentation/train_test_split.txt"):
        with (tmp_path / "e3c" / name).open("a", encoding="utf-8") as file:
            file.write(" ")
        digests.append(find_files(dataset, "en", tmp_path).digest())
    assert len(set(digests)) == 3
    assert isinstance(find_files(dataset, "en", tmp_path), RawFiles)


def test_what_leaked_is_found_split_by_split_with_the_tests_of_other_sets(tmp_path, write_instance):
    for name in ("abstrct", "abstrct_glaucoma", "abstrct_mixed"):
        write_instance(find(name), "en", tmp_path)
    folder = tmp_path / "abstrct/EN/argument_components/original_data"
    assert find_leaked(find("abstrct_clean"), "en", tmp_path) == {"train": {}, "dev": {}}
    leaked = ["No", "difference", "was", "seen", "between", "the", "arms", "at", "any", "time", "."]
    sentence = "\n" + "".join(f"{word}\tO\n" for word in leaked)
    for name in ("neoplasm_train", "glaucoma_test"):
        with (folder / f"{name}.tsv").open("a", encoding="utf-8") as file:
            file.write(sentence)
    assert find_leaked(find("abstrct_clean"), "en", tmp_path) == {"train": {"neoplasm_train-25": "exact"}, "dev": {}}
