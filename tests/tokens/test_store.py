"""A token store gives back what was written, looks finished only when it is, and notices every changed byte."""

import json
import shutil

import numpy as np
import pytest

from medmt5.annotation.example import LabelledExample
from medmt5.errors import InputError
from medmt5.tokenizer import Tokenizer
from medmt5.tokens.store import StoreWriter, TokenStore, read_gold

PAIRS = [
    {"inputs": [5, 6, 1], "targets": [7, 1]},
    {"inputs": [1], "targets": []},
    {"inputs": [9] * 300, "targets": [1]},
]
GOLD = [LabelledExample.from_words(str(i), "es", ["niño", "asma"], ["O", "B-Disease"]) for i in range(3)]


def write(directory, tokenizer, examples=PAIRS, gold=GOLD, objective="pairs", **options):
    with StoreWriter(directory, task="t", split="train", objective=objective, tokenizer=tokenizer, **options) as writer:
        for i, example in enumerate(examples):
            writer.write(example, gold[i] if gold else None)
    return TokenStore(directory)


@pytest.fixture
def store(tmp_path, tokenizer) -> TokenStore:
    return write(tmp_path / "root" / "t" / "train", tokenizer)


def as_lists(store):
    return [{feature: ids.tolist() for feature, ids in store[i].items()} for i in range(len(store))]


def test_reads_what_was_written(store):
    assert as_lists(store) == PAIRS
    assert store[0]["inputs"].dtype == np.int32
    assert store.lengths.tolist() == [[3, 2], [1, 0], [300, 1]]
    assert read_gold(store.directory) == GOLD
    assert store.manifest["tokens"] == {"inputs": 304, "targets": 3}
    store.verify()


def test_whether_inputs_have_the_label_prompt(tmp_path, tokenizer, store):
    prompted = [{"inputs": [tokenizer.open_id("Disease"), 5, 1], "targets": [5, 1]}]
    assert store.label_prompt is False
    assert write(tmp_path / "prompted", tokenizer, prompted).label_prompt is True
    assert write(tmp_path / "answers", tokenizer, gold=None).label_prompt is None
    assert write(tmp_path / "empty", tokenizer, [], gold=[]).label_prompt is None


def test_shards_keep_the_order_and_no_store_is_too_small_for_one(tmp_path, tokenizer):
    store = write(tmp_path / "a", tokenizer, PAIRS * 20, None, shard_tokens=40)
    assert as_lists(store) == PAIRS * 20
    assert [shard["entries"] for shard in store.manifest["shards"]] == [3] * 20
    assert [example["targets"].tolist() for example in store.read(np.array([58, 0, 59, 0]))] == [
        [],
        [7, 1],
        [1],
        [7, 1],
    ]
    store.verify()
    empty = write(tmp_path / "b", tokenizer, [], None)
    assert len(empty) == 0
    assert empty.lengths.shape == (0, 2)
    empty.verify()


@pytest.mark.parametrize("lengths", [[3], [0, 4096, 0], [5000, 4096 * 3, 0, 1, 10_000, 0], [100] * 300, [0, 0]])
def test_documents_and_stretches_of_text_come_back_whatever_their_lengths(tmp_path, tokenizer, lengths):
    text = np.random.default_rng(0).integers(0, 250_000, sum(lengths)).astype(np.int32)
    documents = [{"targets": part.tolist()} for part in np.split(text, np.cumsum(lengths)[:-1])]
    store = write(tmp_path / "a", tokenizer, documents, None, "span_corruption", shard_tokens=5000)
    assert as_lists(store) == documents
    assert store.lengths[:, 0].tolist() == lengths
    assert store.manifest["tokens"] == {"targets": len(text)}
    assert sum(shard["entries"] for shard in store.manifest["shards"]) == -(-len(text) // 4096)
    if len(text):
        starts = np.random.default_rng(1).integers(0, len(text), 50)
        ends = np.minimum(starts + 600, len(text))
        for start, end, got in zip(starts, ends, store.read_text(starts, ends), strict=True):
            assert got.tolist() == text[start:end].tolist()
            first, last = store.records_of(start, end)
            joined = [token for i in range(first, last + 1) for token in documents[i]["targets"]]
            before = sum(lengths[:first])
            assert joined[start - before : end - before] == text[start:end].tolist()
            assert start - before < lengths[first]
            assert end > sum(lengths[:last])
    store.verify()


def test_the_same_content_has_the_same_digest_and_other_content_another(tmp_path, tokenizer):
    digests = [
        write(tmp_path / name, tokenizer, PAIRS[:n], GOLD[:n]).digest for name, n in [("a", 3), ("b", 3), ("c", 2)]
    ]
    assert digests[0] == digests[1] != digests[2]


def fail_while_writing(directory, tokenizer):
    with StoreWriter(directory, task="t", split="train", objective="pairs", tokenizer=tokenizer) as writer:
        writer.write(PAIRS[0])
        raise ZeroDivisionError


def test_a_failed_build_leaves_nothing_and_keeps_the_old_store(tokenizer, store):
    with pytest.raises(ZeroDivisionError):
        fail_while_writing(store.directory, tokenizer)
    assert [path.name for path in store.directory.parent.iterdir()] == ["train"]
    assert as_lists(TokenStore(store.directory)) == PAIRS


def test_an_unfinished_build_is_not_there(tmp_path, tokenizer):
    directory = tmp_path / "t" / "train"
    with StoreWriter(directory, task="t", split="train", objective="pairs", tokenizer=tokenizer) as writer:
        writer.write(PAIRS[0])
        with pytest.raises(InputError, match="medmt5 tokens --mixture t"):
            TokenStore(directory)
    assert len(TokenStore(directory)) == 1


def test_a_rebuild_replaces_the_store(tmp_path, tokenizer, store):
    assert as_lists(write(store.directory, tokenizer, PAIRS[1:], None)) == PAIRS[1:]
    assert not (store.directory / "gold.jsonl").exists()
    assert [path.name for path in store.directory.parent.iterdir()] == ["train"]


@pytest.mark.parametrize("name", ["data-00000-of-00001.array_record", "lengths.npy", "gold.jsonl"])
def test_verify_names_the_file_with_a_flipped_bit(store, name):
    path = store.directory / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"{name} is not as it was written"):
        TokenStore(store.directory).verify()


def test_opening_names_a_missing_file(store):
    (store.directory / "lengths.npy").unlink()
    with pytest.raises(InputError, match=r"lengths.npy is missing.*medmt5 tokens --mixture t"):
        TokenStore(store.directory)


def test_verify_notices_a_changed_manifest(store):
    manifest = store.directory / "manifest.json"
    manifest.write_text(manifest.read_text(encoding="utf-8").replace('"train"', '"dev"'), encoding="utf-8")
    with pytest.raises(InputError, match=r"manifest.json was changed"):
        TokenStore(store.directory).verify()


def test_another_vocabulary_or_other_labels_are_refused_more_labels_are_not(store, tokenizer):
    store.check_vocabulary(tokenizer)
    store.check_vocabulary(Tokenizer(tokenizer.model_file, (*tokenizer.labels, "New")))
    with pytest.raises(InputError, match="was made for the labels"):
        store.check_vocabulary(Tokenizer(tokenizer.model_file, tokenizer.labels[1:]))
    store.manifest["vocabulary"]["sha256"] = "0" * 64
    with pytest.raises(InputError, match="another vocabulary"):
        store.check_vocabulary(tokenizer)


def test_a_manifest_of_another_format_or_of_nothing_is_refused(store):
    path = store.directory / "manifest.json"
    path.write_text(json.dumps(store.manifest | {"format": 1}), encoding="utf-8")
    with pytest.raises(InputError, match="has format 1, this version reads 2"):
        TokenStore(store.directory)
    path.write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match="is not the manifest of a token store"):
        TokenStore(store.directory)


def test_gold_is_for_all_examples_or_none(tmp_path, tokenizer):
    with pytest.raises(ValueError, match="1 of 2 examples have gold"):
        write(tmp_path / "a", tokenizer, PAIRS[:2], [GOLD[0], None])
    assert list(tmp_path.iterdir()) == []


def test_a_store_without_gold_says_so(tmp_path, tokenizer):
    store = write(tmp_path / "a", tokenizer, gold=None)
    with pytest.raises(InputError, match="only stores of sequence labelling"):
        read_gold(store.directory)


def test_a_store_can_be_moved(store, tmp_path):
    shutil.move(store.directory, tmp_path / "elsewhere")
    moved = TokenStore(tmp_path / "elsewhere")
    moved.verify()
    assert as_lists(moved) == PAIRS
