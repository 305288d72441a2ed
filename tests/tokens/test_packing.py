"""Packed rows hold every example once, whole, and none too many; and packed batches keep all that batches promise."""

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medmt5 import batch
from medmt5.tokens import loader, packing
from medmt5.tokens.span_corruption import raw_length
from medmt5.tokens.store import StoreWriter, TokenStore

LENGTHS = {"inputs": 32, "targets": 20}
at_any_pace = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def examples_and_limits(draw):
    limits = draw(st.lists(st.integers(1, 40), min_size=1, max_size=3))
    example = st.tuples(*[st.integers(0 if i else 1, limit) for i, limit in enumerate(limits)])
    return np.array(draw(st.lists(example, min_size=1, max_size=60))), np.array(limits)


def next_fit(lengths, limits) -> int:
    """The rows that one pass needs which looks at the last row alone."""
    rows, used = 0, limits + 1
    for length in lengths:
        if np.any(used + length > limits):
            rows, used = rows + 1, np.zeros_like(limits)
        used = used + length
    return rows


@pytest.mark.parametrize("stream", [1, 4, 1024])
@at_any_pace
@given(examples_and_limits())
def test_rows_hold_each_example_once_and_nothing_above_the_limits(stream, drawn):
    lengths, limits = drawn
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "STREAM_EXAMPLES", stream)
        rows = packing.pack(lengths, limits)
    assert rows.shape == (len(lengths),)
    assert set(rows) == set(range(max(rows) + 1))
    for row in set(rows):
        assert np.all(lengths[rows == row].sum(axis=0) <= limits)


@at_any_pace
@given(examples_and_limits())
def test_a_row_is_opened_only_for_an_example_that_no_open_row_has_room_for(drawn):
    lengths, limits = drawn
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "OPEN_ROWS", len(lengths))
        rows = packing.pack(lengths, limits)
    assert len(lengths) <= packing.STREAM_EXAMPLES, "one stream"
    for i in range(len(lengths)):
        used = [lengths[:i][rows[:i] == row].sum(axis=0) for row in range(max(rows[:i], default=-1) + 1)]
        room = [np.sum((limits - u - lengths[i]) / limits) for u in used if np.all(u + lengths[i] <= limits)]
        if rows[i] == len(used):
            assert not room
        else:
            assert np.sum((limits - used[rows[i]] - lengths[i]) / limits) == pytest.approx(min(room)), "the best fit"


@at_any_pace
@given(examples_and_limits())
def test_few_examples_need_no_more_rows_than_next_fit(drawn):
    assert packing.pack(*drawn).max() + 1 <= next_fit(*drawn)


@pytest.mark.parametrize(("limit", "excess"), [(128, 0.05), (256, 0.025), (512, 0.015), (1024, 0.015)])
def test_sentences_need_hardly_more_rows_than_their_tokens_and_fewer_than_next_fit(limit, excess):
    rng = np.random.default_rng(0)
    inputs = np.clip(rng.lognormal(np.log(40), 0.7, 20_000), 1, 100).astype(int)
    lengths, limits = np.stack([inputs, inputs + 2 * rng.binomial(10, 0.3, 20_000)], axis=1), np.array([limit, limit])
    rows, fewest = packing.pack(lengths, limits).max() + 1, (lengths.sum(axis=0) / limits).max()
    assert fewest <= rows <= (1 + excess) * fewest
    assert rows < next_fit(lengths, limits) < 1.4 * fewest


def test_the_rows_of_some_examples_do_not_depend_on_integer_type():
    lengths = np.random.default_rng(0).integers(1, 200, (5000, 2))
    rows = [packing.pack(lengths.astype(dtype), np.array([300, 300])) for dtype in (np.uint8, np.int32, np.int64)]
    assert np.array_equal(rows[0], rows[1])
    assert np.array_equal(rows[1], rows[2])


def write_pairs(directory, tokenizer, first_id: int, count: int, most: int) -> TokenStore:
    """Example i is first_id + i over and over, at most `most` times, and EOS: tokens tell the example."""
    rng = np.random.default_rng(first_id)
    with StoreWriter(directory, task=directory.name, split="train", objective="pairs", tokenizer=tokenizer) as writer:
        for i, (inputs, targets) in enumerate(rng.integers(0, most, (count, 2)).tolist()):
            writer.write({"inputs": [first_id + i] * inputs + [1], "targets": [first_id + i] * targets + [1]})
    return TokenStore(directory)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory, tokenizer):
    return write_pairs(tmp_path_factory.mktemp("s") / "pairs", tokenizer, 1000, 90, 12)


@pytest.fixture(scope="module")
def other(tmp_path_factory, tokenizer):
    return write_pairs(tmp_path_factory.mktemp("s") / "other", tokenizer, 3000, 50, 3)


@pytest.fixture(scope="module")
def documents(tmp_path_factory, tokenizer):
    directory = tmp_path_factory.mktemp("s") / "documents"
    with StoreWriter(
        directory, task="documents", split="train", objective="span_corruption", tokenizer=tokenizer
    ) as writer:
        for i in range(40):
            writer.write({"targets": list(range(5000 + 30 * i, 5030 + 30 * i))})
    return TokenStore(directory)


def options(**changes):
    return {"feature_lengths": LENGTHS, "batch_size": 8, "seed": 0, "pack": True} | changes


@pytest.fixture
def make(tokenizer):
    def make(*stores, **changes):
        return loader.make_batches(stores, sentinel_ids=tokenizer.sentinel_ids, **options(**changes))

    return make


def rows_an_epoch(store, **changes) -> int:
    return round(1 / loader.epochs_per_step([(store, 1)], **options(**changes, batch_size=1))[0])


def same(a, b) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


def test_a_packed_row_is_its_examples_one_after_the_other(make, pairs, other, documents):
    stores = [(pairs, 3), (other, 2), (documents, 1)]
    batches = make(*stores)
    by_name = {store.manifest["task"]: store for store, _ in stores}
    packed = Counter()
    for step in [0, 1, 2, 1000]:
        element = batches[step]
        expected = {name: np.zeros(*shape) for name, shape in batch.shapes(8, 32, 20, packed=True).items()}
        assert {name: (a.shape, a.dtype) for name, a in element.items()} == {
            name: (a.shape, a.dtype) for name, a in expected.items()
        }
        ids = loader.example_ids(stores, step, **options())
        assert [example["row"] for example in ids] == sorted(example["row"] for example in ids)
        for row, examples in itertools.groupby(ids, key=lambda example: example["row"]):
            ends = {"encoder": 0, "decoder": 0}
            for segment, example in enumerate(examples, start=1):
                packed[example["task"], segment] += 1
                if example["task"] == "documents":
                    tokens = {
                        "inputs": element["encoder_input_tokens"][row].tolist(),
                        "targets": element["decoder_target_tokens"][row].tolist(),
                    }
                    tokens = {feature: ids[: ids.index(1) + 1] for feature, ids in tokens.items()}
                else:
                    first, last = example["records"]
                    assert first == last
                    tokens = {feature: ids.tolist() for feature, ids in by_name[example["task"]][first].items()}
                for side, feature in [("encoder", "inputs"), ("decoder", "targets")]:
                    ids = tokens[feature]
                    here = row, slice(ends[side], ends[side] + len(ids))
                    ends[side] += len(ids)
                    expected[f"{side}_segment_ids"][here] = segment
                    expected[f"{side}_positions"][here] = np.arange(len(ids))
                    if side == "encoder":
                        expected["encoder_input_tokens"][here] = ids
                    else:
                        expected["decoder_target_tokens"][here] = ids
                        expected["decoder_input_tokens"][here] = [0, *ids[:-1]]
                        expected["decoder_loss_weights"][here] = 1
        for name in expected:
            np.testing.assert_array_equal(element[name], expected[name], name)
    assert packed["pairs", 3] > 10, "rows with many"
    assert packed["documents", 1] > 2
    assert packed["documents", 2] == 0


def examples_of(stores, rows, **changes) -> list[tuple]:
    """The examples of `rows`, numbers of rows since the start, of an otherwise endless run."""
    steps = range(rows.start // 8, -(-rows.stop // 8))
    ids = [
        (8 * step + example["row"], example["epoch"], example["records"][0])
        for step in steps
        for example in loader.example_ids(stores, step, **options(**changes))
    ]
    return [(epoch, record) for row, epoch, record in ids if row in rows]


@pytest.mark.parametrize("seed", [0, 5])
@pytest.mark.parametrize("epoch", [0, 1, 1000])
def test_each_example_comes_once_an_epoch_in_a_new_order(pairs, epoch, seed):
    count = rows_an_epoch(pairs, seed=seed)
    orders = []
    for e in (epoch, epoch + 1):
        ids = examples_of([(pairs, 1)], range(e * count, (e + 1) * count), seed=seed)
        assert {e for e, _ in ids} == {e}
        orders.append([record for _, record in ids])
        assert sorted(orders[-1]) == list(range(90))
    assert orders[0] != orders[1]


def test_another_seed_packs_other_examples_together(pairs):
    def companions(seed):
        ids = loader.example_ids([(pairs, 1)], 0, **options(seed=seed))
        return {
            frozenset(example["records"][0] for example in row)
            for _, row in itertools.groupby(ids, key=lambda example: example["row"])
        }

    assert companions(1) == companions(1)
    assert len(companions(1) & companions(2)) <= 1


@pytest.mark.parametrize("count", [2, 4])
def test_the_rows_of_all_hosts_are_the_batch_of_one_across_the_ends_of_epochs(make, pairs, documents, other, count):
    stores = [(pairs, 1), (documents, 0.5), (other, 2)]
    epochs = set()
    whole, parts = make(*stores), [make(*stores, host=(index, count)) for index in range(count)]
    for step in [*range(12), 10**6]:
        rows = [part[step] for part in parts]
        assert same(whole[step], {name: np.concatenate([row[name] for row in rows]) for name in rows[0]})
        epochs |= {(e["task"], e["epoch"]) for e in loader.example_ids(stores, step, **options())}
    assert {("pairs", 0), ("pairs", 1), ("other", 0), ("other", 1)} <= epochs


@pytest.mark.parametrize("start", [0, 1, 2, 3, 5, 8, 5000, 10**9])
def test_resuming_at_a_step_is_never_having_stopped(make, pairs, documents, start):
    batches = make((pairs, 1), (documents, 0.2))
    resumed = loader.iterate(make((pairs, 1), (documents, 0.2)), start)
    for step in range(start, start + 5):
        assert same(next(resumed), batches[step])
    assert resumed.get_state() == {"next_index": start + 5}


def test_a_store_keeps_its_rows_in_another_mixture(make, pairs, other):
    alone = make((pairs, 1))
    mixed = make((other, 2), (pairs, 1), batch_size=64)
    ids = loader.example_ids([(other, 2), (pairs, 1)], 0, **options(batch_size=64))
    rows = mixed[0]["encoder_input_tokens"][sorted({e["row"] for e in ids if e["task"] == "pairs"})]
    expected = np.concatenate([alone[step]["encoder_input_tokens"] for step in range(8)])
    assert len(rows) > 20
    np.testing.assert_array_equal(rows, expected[: len(rows)])


@pytest.mark.parametrize("rates", [(1, 1, 1), (0.2, 3, 1)])
def test_the_rates_are_those_of_examples_packed_or_not(pairs, other, documents, rates):
    """Within one percent over ten thousand rows, give or take two rows."""
    stores = list(zip([pairs, other, documents], rates, strict=True))
    for pack in (True, False):
        ids = loader.example_ids(stores, 1, **options(batch_size=10_000, pack=pack))
        drawn, most = Counter(example["task"] for example in ids), Counter()
        for (task, _), of_row in Counter((example["task"], example["row"]) for example in ids).items():
            most[task] = max(most[task], of_row)
        for store, rate in stores:
            task, expected = store.manifest["task"], drawn.total() * rate / sum(rates)
            assert abs(drawn[task] - expected) < 0.01 * expected + 2 * most[task]


def test_epochs_are_counted_by_examples(pairs, other, documents):
    stores = [(pairs, 1), (other, 3), (documents, 0.5)]
    whole, by_task = loader.epochs_per_step(stores, **options(batch_size=5000))
    drawn = Counter(example["task"] for example in loader.example_ids(stores, 0, **options(batch_size=5000)))
    examples = {"pairs": 90, "other": 50, "documents": -(-1200 // raw_length(32)[0])}
    for task, count in examples.items():
        assert drawn[task] / count == pytest.approx(by_task[task], rel=0.01)
    assert drawn.total() / sum(examples.values()) == pytest.approx(whole, rel=0.01)


def test_packing_leaves_less_padding(make, pairs, other):
    for store in (pairs, other):
        shares = [
            np.mean([make((store, 1), pack=pack)[step]["encoder_input_tokens"] > 0 for step in range(3)])
            for pack in (True, False)
        ]
        assert shares[0] > 2 * shares[1]


def test_without_pack_a_batch_has_no_segments(make, pairs):
    assert make((pairs, 1), pack=False)[0].keys() == batch.DTYPES.keys()
