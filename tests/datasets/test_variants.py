"""Sets that are only a test or only train, and clean variants, work through SeqIO, TFDS and the token stores."""

import json

import pytest
import seqio

from medmt5 import tasks  # noqa: F401  registers
from medmt5.annotation.repairs import Repairs
from medmt5.datasets.declarations import find
from medmt5.datasets.raw_files import require_files
from medmt5.datasets.reading import read_part
from medmt5.datasets.sequence_labelling import LabelledSource, to_labelled_example
from medmt5.errors import InputError
from medmt5.tasks.caching import build_stores
from medmt5.tokens.store import TokenStore, read_gold


@pytest.fixture
def raw(tmp_path, monkeypatch, tokenizer):
    monkeypatch.setenv("MEDMT5_DATA_DIR", str(tmp_path / "raw"))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    monkeypatch.setenv("MEDMT5_VOCABULARY", str(tokenizer.model_file))
    return tmp_path / "raw"


def read(source, split):
    return [to_labelled_example(e) for e in source.get_dataset(split, shuffle=False).as_numpy_iterator()]


def test_a_set_of_one_part_has_that_split_and_its_store(raw, tmp_path, write_instance, tokenizer):
    for name, lang, split in (("abstrct_glaucoma", "fr", "test"), ("e3c_silver", "it", "train")):
        dataset = find(name)
        write_instance(dataset, lang, raw)
        source = LabelledSource(dataset, lang)
        assert source.splits == source.splits_there() == (split,)
        wanted = list(read_part(dataset, lang, require_files(dataset, lang, raw), split, Repairs()))
        assert read(source, split) == wanted
        task = seqio.get_mixture_or_task(f"{name}.{lang}")
        build_stores(task, tmp_path / "tokens", tokenizer)
        assert [folder.name for folder in (tmp_path / "tokens" / task.name).iterdir()] == [split]
        assert read_gold(tmp_path / "tokens" / task.name / split) == wanted


def test_a_test_that_is_not_there_has_no_store_and_the_rest_has(raw, tmp_path, write_instance, tokenizer, caplog):
    dataset = find("diann")
    write_instance(dataset, "es", raw)
    task = seqio.get_mixture_or_task("diann.es")
    build_stores(task, tmp_path / "tokens", tokenizer)
    assert {folder.name for folder in (tmp_path / "tokens/diann.es").iterdir()} == {"train", "dev", "test"}
    (raw / "diann/Spanish/Spanish_Test/Annotated").rename(tmp_path / "elsewhere")
    build_stores(task, tmp_path / "tokens", tokenizer)
    assert {folder.name for folder in (tmp_path / "tokens/diann.es").iterdir()} == {"train", "dev"}
    assert "diann.es has no test" in caplog.text
    with pytest.raises(InputError, match=r"Spanish_Test/Annotated is missing.*to get it: medmt5 data get diann"):
        LabelledSource(dataset, "es").get_dataset("test")


def test_a_clean_variant_lacks_what_leaked_from_train_and_dev_alone_and_lists_it(
    raw, tmp_path, write_instance, tokenizer
):
    dataset = find("ncbi_disease")
    write_instance(dataset, "en", raw)
    folder = raw / "ncbi-disease/original-data"
    files = ("train/NCBItrainset_corpus.txt", "devel/NCBIdevelopset_corpus.txt", "test/NCBItestset_corpus.txt")
    others = ("Nothing else was found.", "It began in childhood.", "All of them were treated.")
    for number, (file, other) in enumerate(zip(files, others, strict=True)):
        with (folder / file).open("a", encoding="utf-8") as out:
            out.write(f"\n9{number}|t|A rare ataxia was seen here.\n9{number}|a|{other}\n")
    plain, clean = (LabelledSource(find(name), "en") for name in ("ncbi_disease", "ncbi_disease_clean"))
    assert clean.digest() != plain.digest()
    removed = {"train": {"90-1"}, "dev": {"91-1"}, "test": set()}
    for split, ids in removed.items():
        before, after = read(plain, split), read(clean, split)
        assert after == [e for e in before if e.id not in ids]
        assert len(before) == len(after) + len(ids)
    [listed] = [
        json.loads(path.read_text(encoding="utf-8"))["removed"]
        for path in (tmp_path / "tfds").rglob("metadata.json")
        if "ncbi_disease_clean" in str(path)
    ]
    assert listed == {"train": {"90-1": "exact"}, "dev": {"91-1": "exact"}}
    build_stores(seqio.get_mixture_or_task("ncbi_disease_clean.en"), tmp_path / "tokens", tokenizer)
    manifest = TokenStore(tmp_path / "tokens/ncbi_disease_clean.en/dev").manifest
    assert manifest["removed"] == {"train": 1, "dev": 1}
    assert manifest["repairs"] == {}


def test_a_clean_variant_follows_the_tests_of_other_sets(raw, write_instance):
    for name in ("abstrct", "abstrct_glaucoma", "abstrct_mixed"):
        write_instance(find(name), "it", raw)
    source = LabelledSource(find("abstrct_clean"), "it")
    before = source.digest()
    [file] = raw.rglob("it_mixed_nllb_awesome_test.tsv")
    file.write_text(file.read_text(encoding="utf-8") + "\nAltro\tO\n", encoding="utf-8")
    assert source.digest() != before
    file.unlink()
    with pytest.raises(InputError, match=r"it_mixed_nllb_awesome_test\.tsv is missing, a part of abstrct_mixed\.it"):
        source.digest()
