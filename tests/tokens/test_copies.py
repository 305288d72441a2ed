"""Token stores and corpora on object stores: copied with their sha256s checked, refused while unfinished."""

import json

import numpy as np
import pytest

from medmt5 import storage
from medmt5.corpus.store import fetch_corpus
from medmt5.errors import InputError
from medmt5.tokens.copies import fetch_stores, has_mixture
from medmt5.tokens.mixture import Mixture
from medmt5.tokens.store import StoreWriter, TokenStore


def write_store(root, task, split, tokenizer, documents=3):
    with StoreWriter(
        root / task / split, task=task, split=split, objective="span_corruption", tokenizer=tokenizer
    ) as store:
        for number in range(documents):
            store.write({"targets": np.arange(5) + 260 + number})


@pytest.fixture
def stores(gs_url, tokenizer):
    """A mixture of two tasks, one of them with a dev split, on a store."""
    with storage.updated(gs_url) as root:
        write_store(root, "a", "train", tokenizer)
        write_store(root, "a", "dev", tokenizer)
        write_store(root, "b", "train", tokenizer)
        write_store(root, "other", "train", tokenizer)
        Mixture("both", (("a", 0.5), ("b", 0.5))).write(root)
    return gs_url


def remove(url, name):
    with storage.opened(url) as store:
        store.rm_file(f"{url}/{name}")


def another_machine(monkeypatch, tmp_path):
    monkeypatch.setenv("MEDMT5_CACHE", str(tmp_path / "another"))


def test_what_a_mixture_needs_is_copied_and_no_more(stores, monkeypatch, tmp_path):
    another_machine(monkeypatch, tmp_path)
    assert has_mixture(stores, "both")
    assert not has_mixture(stores, "neither")
    root = fetch_stores(stores, "both", ("train",))
    assert {name for name in storage.files_in(root) if name.endswith("array_record")} == {
        f"{task}/train/data-00000-of-00001.array_record" for task in "ab"
    }
    store = TokenStore(root / "a" / "train")
    store.verify()
    np.testing.assert_array_equal(store[2]["targets"], np.arange(5) + 262)
    assert (root / "a" / "dev" / "manifest.json").is_file()
    assert not (root / "other").exists()
    assert fetch_stores(stores, "other", ("train",)) == root  # a task alone
    TokenStore(root / "other" / "train")


def test_a_store_without_its_manifest_is_unfinished(stores):
    remove(stores, "b/train/manifest.json")
    with pytest.raises(InputError, match=r"b/train is unfinished: it has no manifest.json"):
        fetch_stores(stores, "both", ("train",))
    fetch_stores(stores, "a", ("train",))


def test_a_store_with_a_file_that_is_missing_or_another_one_is_refused(stores, monkeypatch, tmp_path):
    another_machine(monkeypatch, tmp_path)
    with storage.opened(stores) as store:
        store.pipe_file(f"{stores}/b/train/lengths.npy", b"something else")
    with pytest.raises(InputError, match=r"b/train/lengths.npy is not what its manifest says"):
        fetch_stores(stores, "both", ("train",))
    remove(stores, "b/train/lengths.npy")
    with pytest.raises(InputError, match=r"b/train/lengths.npy is not there"):
        fetch_stores(stores, "both", ("train",))


def test_a_split_that_went_from_the_store_goes_from_the_copy(stores):
    root = fetch_stores(stores, "both", ("train", "dev"))
    assert (root / "a" / "dev").is_dir()
    for name in list(storage.list_objects(stores)):
        if name.startswith("a/dev/"):
            remove(stores, name)
    fetch_stores(stores, "both", ("train", "dev"))
    assert not (root / "a" / "dev").exists()


def test_a_mixture_that_is_not_there_is_told_with_the_command_that_makes_it(stores):
    with pytest.raises(InputError, match="medmt5 tokens --mixture neither"):
        fetch_stores(stores, "neither", ("train",))


def test_a_corpus_is_finished_when_its_manifest_is_there(gs_url, monkeypatch, tmp_path):
    with storage.updated(gs_url) as root:
        (root / "en").mkdir()
        (root / "en" / "x-00000.jsonl.zst").write_bytes(b"")
        empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"  # sha256 of nothing
        manifest = {"format": 1, "languages": {"en": {}}, "shards": [{"file": "en/x-00000.jsonl.zst", "sha256": empty}]}
        (root / "manifest.json").write_text(json.dumps(manifest))
    another_machine(monkeypatch, tmp_path)
    assert (fetch_corpus(gs_url) / "en" / "x-00000.jsonl.zst").is_file()
    remove(gs_url, "manifest.json")
    with pytest.raises(InputError, match=r"no finished corpus in .* written last"):
        fetch_corpus(gs_url)
