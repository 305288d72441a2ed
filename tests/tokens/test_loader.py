"""Batches are a pure function of (seed, step): whole epochs, any number of hosts, any point to resume, exact rates."""

import itertools
import logging
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest

from medmt5 import batch
from medmt5.errors import InputError
from medmt5.tokens import loader
from medmt5.tokens.span_corruption import raw_length, restore
from medmt5.tokens.store import StoreWriter, TokenStore

LENGTHS = {"inputs": 16, "targets": 8}


def write_pairs(directory, tokenizer, first_id: int, count: int, task: str = "pairs") -> TokenStore:
    """Example i has inputs [first_id + i, 1]."""
    with StoreWriter(directory, task=task, split="train", objective="pairs", tokenizer=tokenizer) as writer:
        for i in range(count):
            writer.write({"inputs": [first_id + i, 1], "targets": [first_id + i] * (i % 3) + [1]})
    return TokenStore(directory)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory, tokenizer):
    return write_pairs(tmp_path_factory.mktemp("s") / "pairs", tokenizer, 1000, 24)


@pytest.fixture(scope="module")
def other(tmp_path_factory, tokenizer):
    return write_pairs(tmp_path_factory.mktemp("s") / "other", tokenizer, 3000, 10, "other")


@pytest.fixture(scope="module")
def documents(tmp_path_factory, tokenizer):
    """Tokens 5000, 5001, … in documents of 0 to 400 tokens, and in three shards."""
    directory = tmp_path_factory.mktemp("s") / "documents"
    ids = itertools.count(5000)
    rng = np.random.default_rng(0)
    with StoreWriter(
        directory, task="documents", split="train", objective="span_corruption", tokenizer=tokenizer, shard_tokens=300
    ) as writer:
        for length in [0, *rng.integers(0, 400, 60), 0]:
            writer.write({"targets": list(itertools.islice(ids, int(length)))})
    store = TokenStore(directory)
    assert len(store.manifest["shards"]) == 3
    return store


@pytest.fixture
def make(tokenizer):
    def make(*stores, seed=0, batch_size=8, host=(0, 1), lengths=LENGTHS):
        return loader.make_batches(
            stores,
            feature_lengths=lengths,
            batch_size=batch_size,
            seed=seed,
            sentinel_ids=tokenizer.sentinel_ids,
            host=host,
        )

    return make


def first_ids(batches, steps) -> list[int]:
    return [int(row) for step in steps for row in batches[step]["encoder_input_tokens"][:, 0]]


def same(a, b) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


def texts(batches, steps, tokenizer) -> list[list[int]]:
    """The chunks that the batches were made of."""
    return [
        restore(inputs, targets, tokenizer.sentinel_ids, 1).tolist()
        for step in steps
        for inputs, targets in zip(
            batches[step]["encoder_input_tokens"], batches[step]["decoder_target_tokens"], strict=True
        )
    ]


def test_a_batch_has_the_shapes_dtypes_and_values_of_the_contract(make, pairs):
    element = make((pairs, 1))[0]
    for name, (shape, dtype) in batch.shapes(8, 16, 8).items():
        assert element[name].shape == shape
        assert element[name].dtype == dtype
    for row in range(8):
        first = int(element["encoder_input_tokens"][row, 0])
        target = [first] * ((first - 1000) % 3) + [1]
        assert element["decoder_target_tokens"][row].tolist() == target + [0] * (8 - len(target))
        assert element["decoder_input_tokens"][row].tolist() == [0, *target] + [0] * (7 - len(target))
        assert element["decoder_loss_weights"][row].tolist() == [1] * len(target) + [0] * (8 - len(target))


@pytest.mark.parametrize("epoch", [0, 1, 5])
def test_each_example_comes_once_an_epoch_in_a_new_order(make, pairs, epoch):
    batches = make((pairs, 1))
    order = first_ids(batches, range(3 * epoch, 3 * epoch + 3))
    assert sorted(order) == list(range(1000, 1024))
    assert order != sorted(order)
    assert order != first_ids(batches, range(3 * epoch + 3, 3 * epoch + 6))


@pytest.mark.parametrize("epoch", [0, 3])
def test_each_token_of_the_documents_comes_once_an_epoch(make, documents, tokenizer, epoch):
    full, last = divmod(documents.num_tokens, 17)
    first_row = epoch * (full + 1)
    steps = range(first_row // 64, (first_row + full) // 64 + 1)
    rows = texts(make((documents, 1), batch_size=64), steps, tokenizer)
    chunks = rows[first_row % 64 :][: full + 1]
    assert 0 < last < 17
    assert sorted(map(len, chunks)) == [last, *[17] * full]
    assert sorted(itertools.chain(*chunks)) == list(range(5000, 5000 + documents.num_tokens))
    assert chunks != sorted(chunks)
    for chunk in chunks:
        assert chunk == list(range(chunk[0], chunk[0] + len(chunk))), "the text of a chunk is in its order"


def test_example_ids_name_the_records_of_each_row(make, pairs, documents, tokenizer):
    stores = [(documents, 5), (pairs, 2)]
    batches = make(*stores, seed=3)
    ends = np.cumsum(documents.lengths[:, 0])
    for step in [0, 1, 200, 10**6]:
        ids = loader.example_ids(stores, step, feature_lengths=LENGTHS, batch_size=8, seed=3)
        for row, inputs, targets in zip(
            ids, batches[step]["encoder_input_tokens"], batches[step]["decoder_target_tokens"], strict=True
        ):
            first, last = row["records"]
            assert row["split"] == "train"
            if row["task"] == "pairs":
                assert first == last == inputs[0] - 1000
            else:
                text = restore(inputs, targets, tokenizer.sentinel_ids, 1) - 5000  # is a position in the store
                assert [first, last] == np.searchsorted(ends, text[[0, -1]], side="right").tolist()


def test_epochs_in_example_ids_are_counted_as_epochs_per_step_says(make, pairs, documents):
    stores = [(documents, 5), (pairs, 2)]
    options = {"feature_lengths": LENGTHS, "batch_size": 8, "seed": 0}
    _, rates = loader.epochs_per_step(stores, **options)
    assert rates["documents"] == pytest.approx(8 * 5 / 7 / -(-documents.num_tokens // 17))
    assert rates["pairs"] == pytest.approx(8 * 2 / 7 / 24)
    for step in [0, 30, 4321]:
        for row in loader.example_ids(stores, step, **options):
            share = rates[row["task"]]
            assert int(step * share - 0.1) <= row["epoch"] <= int((step + 1) * share + 0.1)


def test_order_and_noise_are_new_in_each_epoch(make, documents, tokenizer):
    chunks = -(-documents.num_tokens // raw_length(64)[0])
    batches = make((documents, 1), batch_size=2 * chunks, lengths={"inputs": 64, "targets": 20})
    starts = [text[0] for text in texts(batches, [0], tokenizer)]
    inputs = batches[0]["encoder_input_tokens"]
    noise = [
        dict(zip(starts[half], inputs[half].tolist(), strict=True)) for half in (slice(chunks), slice(chunks, None))
    ]
    assert noise[0].keys() == noise[1].keys()
    assert list(noise[0]) != list(noise[1])
    assert sum(noise[0][start] == noise[1][start] for start in starts[:chunks]) <= 1


@pytest.mark.parametrize("count", [2, 4])
def test_the_rows_of_all_hosts_are_the_batch_of_one_across_the_ends_of_epochs(make, pairs, documents, other, count):
    stores = [(pairs, 1), (documents, 2.5), (other, 0.3)]
    epochs = set()
    whole, parts = make(*stores), [make(*stores, host=(index, count)) for index in range(count)]
    for step in [*range(24), 10**6]:
        rows = [part[step] for part in parts]
        assert same(whole[step], {name: np.concatenate([row[name] for row in rows]) for name in rows[0]})
        ids = loader.example_ids(stores, step, feature_lengths=LENGTHS, batch_size=8, seed=0)
        epochs |= {(row["task"], row["epoch"]) for row in ids}
    assert {("pairs", 0), ("pairs", 1), ("other", 0)} <= epochs


@pytest.mark.parametrize("start", [0, 1, 7, 5000])
def test_resuming_at_a_step_is_never_having_stopped(make, pairs, documents, start):
    batches = make((pairs, 1), (documents, 2))
    resumed = loader.iterate(make((pairs, 1), (documents, 2)), start)
    for step in range(start, start + 5):
        assert same(next(resumed), batches[step])
    state = resumed.get_state()
    assert state == {"next_index": start + 5}
    again = loader.iterate(batches)
    again.set_state(state)
    assert same(next(again), next(resumed))


def test_resuming_reads_nothing_of_what_came_before(make, pairs, documents, monkeypatch):
    read = []
    monkeypatch.setattr(loader.Pairs, "read", lambda self, indices: read.append(len(indices)) or [])
    monkeypatch.setattr(loader.Chunks, "read", lambda self, indices: read.append(len(indices)) or [])
    iterator = loader.iterate(make((pairs, 1), (documents, 2)), 10**9)
    with pytest.raises(ValueError, match="zip"):
        next(iterator)
    iterator.close()
    assert sum(read) <= 8 * loader.PREFETCHED_BATCHES


def test_two_seeds_differ_and_one_does_not(make, pairs, documents):
    for store in (pairs, documents):
        a, b, c = (make((store, 1), seed=seed)[0] for seed in (1, 1, 2))
        assert same(a, b)
        assert not same(a, c)


@pytest.mark.parametrize(
    "rates", [(400, 60, 1000), (0.1, 0.25, 0.65), (1, 1000), (1, 2**0.5, np.pi), (1, 1.0099), (*[1.0] * 20, 1.99)]
)
def test_rates_are_kept_within_one_percent_over_ten_thousand_draws(tmp_path, tokenizer, rates):
    """One percent of what is expected of each task, give or take two draws; and from any step on."""
    stores = [
        (write_pairs(tmp_path / str(i), tokenizer, 1000 * (i + 1), 50, str(i)), rate) for i, rate in enumerate(rates)
    ]
    for step in (0, 7, 123_456):
        ids = loader.example_ids(stores, step, feature_lengths=LENGTHS, batch_size=10_000, seed=0)
        drawn = Counter(int(row["task"]) for row in ids)
        for i, rate in enumerate(rates):
            expected = 10_000 * rate / sum(rates)
            assert abs(drawn[i] - expected) < 0.01 * expected + 2


def test_batches_hold_the_tasks_at_their_rates(make, pairs, other):
    drawn = Counter(i // 1000 for i in first_ids(make((pairs, 3), (other, 1), batch_size=100), range(20)))
    assert drawn == {1: 1500, 3: 500}


def test_a_store_keeps_its_order_in_another_mixture(make, pairs, other):
    alone = first_ids(make((pairs, 1)), range(3))
    mixed = [i for i in first_ids(make((other, 1), (pairs, 1)), range(6)) if i < 3000]
    assert mixed == alone


def test_overlong_pairs_are_left_out_and_counted_aloud(make, tmp_path, tokenizer, caplog):
    with StoreWriter(tmp_path / "s", task="t", split="train", objective="pairs", tokenizer=tokenizer) as writer:
        for i, (inputs, targets) in enumerate([(16, 8), (17, 2), (2, 9), (2, 2)]):
            writer.write({"inputs": [100 + i] * inputs, "targets": [7] * targets})
    store = TokenStore(tmp_path / "s")
    with caplog.at_level(logging.WARNING):
        batches = make((store, 1))
    assert "t/train: 2 of 4 examples are longer than inputs 16, targets 8 and left out (longest: 17, 9)" in caplog.text
    assert set(first_ids(batches, range(4))) == {100, 103}
    with pytest.raises(InputError, match="all 4 examples are longer than inputs 1, targets 1"):
        make((store, 1), lengths={"inputs": 1, "targets": 1})


def test_epochs_of_data_are_counted_by_task_and_in_all(pairs, documents, tokenizer):
    options = {"feature_lengths": LENGTHS, "batch_size": 8, "seed": 0}
    chunks = -(-documents.manifest["tokens"]["targets"] // 17)
    whole, by_task = loader.epochs_per_step([(pairs, 1), (documents, 3)], **options)
    assert whole == pytest.approx(8 / (24 + chunks))
    assert by_task == pytest.approx({"pairs": 8 / 4 / 24, "documents": 8 * 3 / 4 / chunks})


def test_one_short_document_is_enough(make, tmp_path, tokenizer):
    with StoreWriter(
        tmp_path / "s", task="t", split="train", objective="span_corruption", tokenizer=tokenizer
    ) as writer:
        writer.write({"targets": [300, 301]})
    assert texts(make((TokenStore(tmp_path / "s"), 1)), [0, 9], tokenizer) == [[300, 301]] * 16


def test_wrong_sizes_and_empty_stores_are_input_errors(make, pairs, documents, tmp_path, tokenizer):
    with pytest.raises(InputError, match="batch size 8 is not a multiple of the 3 hosts"):
        make((pairs, 1), host=(0, 3))
    with pytest.raises(InputError, match="no token stores"):
        make()
    with pytest.raises(InputError, match="holds no examples"):
        make((write_pairs(tmp_path / "e", tokenizer, 0, 0), 1))
    with pytest.raises(InputError, match="set 'targets' to 114"):
        make((documents, 1), lengths={"inputs": 512, "targets": 113})
    with pytest.raises(InputError, match="spans, but the vocabulary has 100 sentinels"):
        make((documents, 1), lengths={"inputs": 4096, "targets": 4096})


def test_the_store_and_span_corruption_load_neither_jax_nor_tensorflow():
    """Grain itself imports JAX where it is installed; the other modules of tokens/ do not need it."""
    code = "import sys, medmt5.tokens.span_corruption, medmt5.tokens.store; sys.exit(bool({} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code.format({"jax", "tensorflow"})], check=False).returncode == 0
