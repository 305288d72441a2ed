"""Batches from token stores, through Grain: shuffled, mixed by rates, corrupted, padded.

Everything is random access: the batch of a step is a pure function of (seed, step, stores, host), so a resumed run sees
the batches of the run that was never stopped, and the rows of all hosts together are the rows of one. The state of an
iterator is the number of the next step.

    rates -> the task of each row, and the number of the draw from it -> this host's rows             Grain
          -> rows, shuffled anew each epoch -> read together -> texts corrupted -> batch              numpy

Grain mixes numbers one by one, and reads ahead; the rest is vectorised over the rows of a batch.

With `pack` a row holds as many pairs of one task as fit (`packing`); a chunk of span corruption fills its row already.
T5X packs the mixed stream, so that a row mixes tasks; here it must not: what a task's row holds would depend on what it
is mixed with. As in T5X, the rates are those at which examples are drawn, packed or not: a task's rows are drawn at its
rate over its examples a row. By rows instead, packing would multiply the examples of tasks with short ones.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import NamedTuple

import grain
import numpy as np

from medmt5.batch import Batch, positions, shift_right
from medmt5.errors import InputError
from medmt5.tokenizer import Tokenizer
from medmt5.tokens import span_corruption
from medmt5.tokens.examples import Chunks, Pairs
from medmt5.tokens.random_numbers import make_keys
from medmt5.tokens.shuffle import Shuffle
from medmt5.tokens.store import FEATURES, TokenStore

EOS_ID = Tokenizer.eos_id
READ_THREADS = 4
PREFETCHED_BATCHES = 8


def make_batches(
    stores: Sequence[tuple[TokenStore, float]],
    *,
    feature_lengths: Mapping[str, int],
    batch_size: int,
    seed: int,
    sentinel_ids: np.ndarray,
    pack: bool = False,
    host: tuple[int, int] = (0, 1),
) -> grain.MapDataset:
    """Returns an endless dataset whose element `step` is the Batch of that step, or this host's rows of it.

    Every example of a store is seen once an epoch, in an order of its own each epoch. Examples of a "pairs" store that
    do not fit `feature_lengths` are left out, and a warning counts them. Order and noise of a store do not depend on
    what it is mixed with.

    Args:
      stores: token stores and the rates, any positive numbers, at which their examples are drawn.
      feature_lengths: tokens of "inputs" and "targets".
      batch_size: rows, global.
      sentinel_ids: [sentinels] int32, for span corruption.
      pack: several pairs share a row, and batches have `batch.PACKED_DTYPES` too.
      host: (index, count); a host gets `batch_size / count` consecutive rows.
    """
    index, count = host
    if batch_size % count:
        raise InputError(f"batch size {batch_size} is not a multiple of the {count} hosts")
    tasks = _open_tasks(stores, feature_lengths, seed, pack)
    for task in tasks:
        if isinstance(task.examples, Chunks):
            # Here, not in a reading thread.
            span_corruption.check_sentinels(task.examples.chunk_tokens, sentinel_ids)
        else:
            task.examples.warn_of_overlong()
    return _draw(tasks, batch_size // count)[index::count].map(
        partial(_make_batch, tasks=tasks, feature_lengths=feature_lengths, sentinel_ids=sentinel_ids, pack=pack)
    )


def iterate(batches: grain.MapDataset, start_step: int = 0) -> grain.DatasetIterator:
    """Returns an iterator over the batches from `start_step` on, read ahead by threads.

    Its `get_state()` is {"next_index": the next step}, what `set_state` takes.
    """
    options = grain.ReadOptions(num_threads=READ_THREADS, prefetch_buffer_size=PREFETCHED_BATCHES)
    iterator = iter(batches.to_iter_dataset(options))
    iterator.set_state({"next_index": start_step})
    return iterator


def example_ids(
    stores: Sequence[tuple[TokenStore, float]],
    step: int,
    *,
    feature_lengths: Mapping[str, int],
    batch_size: int,
    seed: int,
    pack: bool = False,
) -> list[dict[str, object]]:
    """Returns what the global batch of `step` holds, row by row, for the arguments that `make_batches` had.

    An example is {"row", "task", "split", "epoch", "records": [first, last]}: the numbers, last one included, of the
    store's records (pairs, documents) that it was made of. No token is read.
    """
    tasks = _open_tasks(stores, feature_lengths, seed, pack)
    ids: list[list[dict[str, object]]] = [[] for _ in range(batch_size)]
    for task, rows, epochs, numbers in _by_task(_draw(tasks, batch_size)[step], tasks):
        manifest = task.store.manifest
        for row, epoch, number in zip(rows.tolist(), epochs.tolist(), numbers.tolist(), strict=True):
            where = {"row": row, "task": manifest["task"], "split": manifest["split"], "epoch": epoch}
            ids[row] = [where | {"records": list(records)} for records in task.examples.records(number)]
    return list(chain.from_iterable(ids))


def epochs_per_step(
    stores: Sequence[tuple[TokenStore, float]],
    *,
    feature_lengths: Mapping[str, int],
    batch_size: int,
    seed: int,
    pack: bool = False,
) -> tuple[float, dict[str, float]]:
    """Returns the epochs of data that one step goes through, for the arguments that `make_batches` had: of all stores
    together, and task -> of its own store.

    An epoch of all together is as many examples as they hold, whatever the rates.
    """
    tasks = _open_tasks(stores, feature_lengths, seed, pack)
    total = sum(task.rate for task in tasks)
    epochs = [batch_size * task.rate / total / len(task.examples) for task in tasks]
    sizes = [task.examples.num_examples for task in tasks]
    by_task = {task.store.manifest["task"]: n for task, n in zip(tasks, epochs, strict=True)}
    return float(np.dot(epochs, sizes)) / sum(sizes), by_task


class _Task(NamedTuple):
    store: TokenStore
    rate: float  # of rows
    examples: Pairs | Chunks
    shuffle: Shuffle
    noise_seed: int


def _open_tasks(
    stores: Sequence[tuple[TokenStore, float]], feature_lengths: Mapping[str, int], seed: int, pack: bool
) -> list[_Task]:
    if not stores:
        raise InputError("no token stores to make batches from")
    tasks = []
    for store, rate in stores:
        if not store.num_tokens:
            raise InputError(
                f"{store.directory} holds no examples; leave {store.name} out of the mixture, or give it data"
            )
        examples: Pairs | Chunks
        if store.manifest["objective"] == "pairs":
            examples = Pairs(store, feature_lengths, _seed(seed, store, "packing") if pack else None)
        else:
            examples = Chunks(store, feature_lengths)
        row_rate = rate * len(examples) / examples.num_examples
        shuffle = Shuffle(len(examples), _seed(seed, store, "shuffle"))
        noise_seed = span_corruption.noise_seed(seed, store.manifest["task"])
        tasks.append(_Task(store, row_rate, examples, shuffle, noise_seed))
    return tasks


def _draw(tasks: Sequence[_Task], rows: int) -> grain.MapDataset:
    """Returns an endless dataset of [rows, 2] int64: of each row the number of its task, and of the draw from it."""
    endless = grain.MapDataset.range(sys.maxsize)
    mixed = grain.MapDataset.mix(
        [endless.map(partial(_with_number, number)) for number in range(len(tasks))],
        weights=[task.rate for task in tasks],
    )
    return mixed.batch(rows, drop_remainder=True, batch_fn=np.array)


def _with_number(number: int, draw: int) -> tuple[int, int]:
    return number, draw


def _by_task(draws: np.ndarray, tasks: Sequence[_Task]) -> Iterator[tuple[_Task, np.ndarray, np.ndarray, np.ndarray]]:
    """Yields (task, rows of the batch, epochs, rows of the task), [n] each, for the tasks that are among draws,
    [rows, 2] as `_draw` makes them.
    """
    for number in np.unique(draws[:, 0]):
        rows = np.flatnonzero(draws[:, 0] == number)
        yield tasks[number], rows, *tasks[number].shuffle(draws[rows, 1])


def _make_batch(
    draws: np.ndarray,
    *,
    tasks: Sequence[_Task],
    feature_lengths: Mapping[str, int],
    sentinel_ids: np.ndarray,
    pack: bool,
) -> Batch:
    """Returns the Batch of draws, [rows, 2] as `_draw` makes them."""
    tokens, segments = (
        {feature: np.zeros((len(draws), feature_lengths[feature]), np.int32) for feature in FEATURES["pairs"]}
        for _ in range(2)
    )
    for task, rows, epochs, numbers in _by_task(draws, tasks):
        if isinstance(task.examples, Pairs):
            for row, pairs in zip(rows, task.examples.read(numbers), strict=True):
                for feature in tokens:
                    start = 0
                    for segment, pair in enumerate(pairs, start=1):
                        end = start + len(pair[feature])
                        tokens[feature][row, start:end] = pair[feature]
                        segments[feature][row, start:end] = segment
                        start = end
        else:
            texts = task.examples.read(numbers)
            keys = make_keys(task.noise_seed, epochs, numbers)
            lengths = np.array([len(text) for text in texts])
            for length in np.unique(lengths):  # one, or two where the last chunk of an epoch is among them
                alike = np.flatnonzero(lengths == length)
                corrupted = span_corruption.corrupt(
                    np.stack([texts[i] for i in alike]), keys[alike], sentinel_ids, EOS_ID
                )
                for feature, ids in zip(tokens, corrupted, strict=True):
                    tokens[feature][rows[alike], : ids.shape[1]] = ids
                    segments[feature][rows[alike], : ids.shape[1]] = 1
    batch = {
        "encoder_input_tokens": tokens["inputs"],
        "decoder_input_tokens": shift_right(tokens["targets"], segments["targets"] if pack else None),
        "decoder_target_tokens": tokens["targets"],
        "decoder_loss_weights": (segments["targets"] > 0).astype(np.float32),
    }
    if pack:
        batch |= {
            "encoder_segment_ids": segments["inputs"],
            "decoder_segment_ids": segments["targets"],
            "encoder_positions": positions(segments["inputs"]),
            "decoder_positions": positions(segments["targets"]),
        }
    return batch


def _seed(seed: int, store: TokenStore, purpose: str) -> int:
    """Returns a 64-bit seed that two stores or purposes do not share."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{store.name}/{purpose}".encode()).digest()[:8], "little")
