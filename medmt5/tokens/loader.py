"""Batches from token stores, through Grain: shuffled, mixed by rates, corrupted, padded.

Everything is random access: the batch of a step is a pure function of (seed, step, stores, host), so a resumed run sees
the batches of the run that was never stopped, and the rows of all hosts together are the rows of one. The state of an
iterator is the number of the next step.

    store -> examples or chunks -> shuffled anew each epoch, endless -> corrupted, each by its own random generator
          -> mixed by rates -> this host's rows -> batch
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import grain
import numpy as np

from medmt5.batch import DTYPES, Batch, shift_right
from medmt5.errors import InputError
from medmt5.tokenizer import Tokenizer
from medmt5.tokens import span_corruption
from medmt5.tokens.store import TokenStore

EOS_ID = Tokenizer.eos_id
READ_THREADS = 4
PREFETCHED_BATCHES = 8

Example = dict[str, np.ndarray]

logger = logging.getLogger(__name__)


def make_batches(
    stores: Sequence[tuple[TokenStore, float]],
    *,
    feature_lengths: Mapping[str, int],
    batch_size: int,
    seed: int,
    sentinel_ids: np.ndarray,
    host: tuple[int, int] = (0, 1),
) -> grain.MapDataset:
    """Returns an endless dataset whose element `step` is the Batch of that step, or this host's rows of it.

    Every example of a store is seen once an epoch, in an order of its own each epoch. Examples of a "pairs" store that
    do not fit `feature_lengths` are left out, for a trimmed target is no valid one; a warning counts them.

    Args:
      stores: token stores and the rates, any positive numbers, at which their examples are drawn.
      feature_lengths: tokens of "inputs" and "targets".
      batch_size: global.
      sentinel_ids: [sentinels] int32, for span corruption.
      host: (index, count); a host gets `batch_size / count` consecutive rows.
    """
    index, count = host
    if batch_size % count:
        raise InputError(f"batch size {batch_size} is not a multiple of the {count} hosts")
    if not stores:
        raise InputError("no token stores to make batches from")
    endless = [_endless_examples(store, feature_lengths, sentinel_ids, seed) for store, _ in stores]
    mixed = grain.MapDataset.mix(endless, weights=[rate for _, rate in stores])
    rows = _HostRows(mixed, batch_size, index, count)
    return grain.MapDataset.source(rows).batch(
        batch_size // count, batch_fn=lambda examples: _pad(examples, feature_lengths)
    )


def iterate(batches: grain.MapDataset, start_step: int = 0) -> grain.DatasetIterator:
    """Returns an iterator over the batches from `start_step` on, read ahead by threads.

    Its `get_state()` is {"next_index": the next step}, what `set_state` takes.
    """
    options = grain.ReadOptions(num_threads=READ_THREADS, prefetch_buffer_size=PREFETCHED_BATCHES)
    iterator = iter(batches.to_iter_dataset(options))
    iterator.set_state({"next_index": start_step})
    return iterator


def count_overlong(store: TokenStore, feature_lengths: Mapping[str, int]) -> int:
    """Returns how many examples of a "pairs" store do not fit."""
    return int((~_fitting(store, feature_lengths)).sum())


def epochs_per_step(
    stores: Sequence[tuple[TokenStore, float]],
    *,
    feature_lengths: Mapping[str, int],
    batch_size: int,
    sentinel_ids: np.ndarray,
) -> tuple[float, dict[str, float]]:
    """Returns the epochs of data that one step goes through: of all stores together, and task -> of its own store.

    An epoch of all together is as many examples as they hold, whatever the rates.
    """
    counts = {store.manifest["task"]: len(_Records(store, feature_lengths, sentinel_ids)) for store, _ in stores}
    rates = {store.manifest["task"]: rate for store, rate in stores}
    shares = {task: rate / sum(rates.values()) for task, rate in rates.items()}
    by_task = {task: batch_size * shares[task] / count for task, count in counts.items() if count}
    return batch_size / max(sum(counts.values()), 1), by_task


def example_ids(
    stores: Sequence[tuple[TokenStore, float]],
    step: int,
    *,
    feature_lengths: Mapping[str, int],
    batch_size: int,
    seed: int,
    sentinel_ids: np.ndarray,
) -> list[dict[str, Any]]:
    """Returns where each row of the batch of `step` comes from: {"task", "split", "epoch", "records": [first, last]}.

    Records are numbered as in the store; those of span corruption are the documents that a chunk was cut from. The
    arguments are those of `make_batches`, and so is the order: the same sources, shuffled and mixed alike.
    """

    def endless(store: TokenStore) -> grain.MapDataset:
        name = f"{store.manifest['task']}/{store.manifest['split']}"
        records = _Records(store, feature_lengths, sentinel_ids)
        facts = {"task": store.manifest["task"], "split": store.manifest["split"]}
        shuffled = grain.MapDataset.source(records).shuffle(seed=_seed(seed, name, "shuffle")).repeat()
        return shuffled.map_with_index(
            lambda i, range_: facts | {"epoch": int(i) // len(records), "records": list(range_)}
        )

    mixed = grain.MapDataset.mix([endless(store) for store, _ in stores], weights=[rate for _, rate in stores])
    return [mixed[step * batch_size + row] for row in range(batch_size)]


def _endless_examples(
    store: TokenStore, feature_lengths: Mapping[str, int], sentinel_ids: np.ndarray, seed: int
) -> grain.MapDataset:
    """Returns the examples {"inputs", "targets"}, unpadded; their order and noise do not depend on the mixture."""
    name = f"{store.manifest['task']}/{store.manifest['split']}"
    if not len(store) or not sum(store.manifest["tokens"].values()):
        raise InputError(f"{store.directory} holds no examples; leave {name} out of the mixture, or give it data")
    shuffle_seed, noise_seed = (_seed(seed, name, purpose) for purpose in ("shuffle", "noise"))
    if store.manifest["objective"] == "pairs":
        pairs = grain.MapDataset.source(_Pairs(store, feature_lengths, name))
        return pairs.shuffle(seed=shuffle_seed).repeat()
    chunk_tokens = _chunk_tokens(feature_lengths, sentinel_ids)
    chunks = grain.MapDataset.source(_Chunks(store, chunk_tokens)).shuffle(seed=shuffle_seed).repeat()

    def corrupt(tokens: np.ndarray, rng: np.random.Generator) -> Example:
        inputs, targets = span_corruption.corrupt(tokens, rng, sentinel_ids, EOS_ID)
        return {"inputs": inputs, "targets": targets}

    # After repeat, an index names the epoch as well: the noise is new in each.
    return chunks.random_map(corrupt, seed=noise_seed)


class _Pairs:
    """The examples of a store that fit."""

    def __init__(self, store: TokenStore, feature_lengths: Mapping[str, int], name: str):
        fits = _fitting(store, feature_lengths)
        self._store, self._indices = store, np.flatnonzero(fits)
        limits = ", ".join(f"{feature} {feature_lengths[feature]}" for feature in store.features)
        if not len(self._indices):
            raise InputError(f"{name}: all {len(store)} examples are longer than {limits}; raise TASK_FEATURE_LENGTHS")
        if overlong := len(store) - len(self._indices):
            longest = ", ".join(map(str, store.lengths.max(axis=0)))
            logger.warning(
                "%s: %d of %d examples are longer than %s and left out (longest: %s); raise TASK_FEATURE_LENGTHS",
                name, overlong, len(store), limits, longest,
            )  # fmt: skip

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, i: int) -> Example:
        return self._store[int(self._indices[i])]


class _Chunks:
    """The documents of a store, one after the other, cut into chunks of equal length; the last may be shorter.

    No EOS stands between documents, as T5 has it. They keep the store's order, so that a chunk is read from
    neighbouring records; it is the chunks that are shuffled.
    """

    def __init__(self, store: TokenStore, chunk_tokens: int):
        self._store, self._chunk_tokens = store, chunk_tokens
        self._ends = np.cumsum(store.lengths[:, 0], dtype=np.int64)  # of each document in the stream

    def __len__(self) -> int:
        return -(-int(self._ends[-1]) // self._chunk_tokens)

    def __getitem__(self, i: int) -> np.ndarray:
        start = i * self._chunk_tokens
        end = min(start + self._chunk_tokens, int(self._ends[-1]))
        first, last = np.searchsorted(self._ends, [start, end - 1], side="right")
        stream = np.concatenate([self._store[document]["targets"] for document in range(first, last + 1)])
        offset = start - (int(self._ends[first - 1]) if first else 0)
        return stream[offset : offset + end - start]


class _Records:
    """What `_Pairs` or `_Chunks` make their examples of: element i is (first, last) record."""

    def __init__(self, store: TokenStore, feature_lengths: Mapping[str, int], sentinel_ids: np.ndarray):
        self._indices: np.ndarray | None = None
        if store.manifest["objective"] == "pairs":
            self._indices = np.flatnonzero(_fitting(store, feature_lengths))
            self._count = len(self._indices)
        else:
            self._chunk_tokens = _chunk_tokens(feature_lengths, sentinel_ids)
            self._ends = np.cumsum(store.lengths[:, 0], dtype=np.int64)
            self._count = -(-int(self._ends[-1] if len(store) else 0) // self._chunk_tokens)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, i: int) -> tuple[int, int]:
        if self._indices is not None:
            return int(self._indices[i]), int(self._indices[i])
        start = i * self._chunk_tokens
        end = min(start + self._chunk_tokens, int(self._ends[-1]))
        first, last = np.searchsorted(self._ends, [start, end - 1], side="right")
        return int(first), int(last)


class _HostRows:
    """The rows of one host, batch after batch."""

    def __init__(self, examples: grain.MapDataset, batch_size: int, index: int, count: int):
        self._examples, self._batch_size, self._count = examples, batch_size, count
        self._rows = batch_size // count
        self._first = index * self._rows

    def __len__(self) -> int:
        return len(self._examples) // self._batch_size * self._rows

    def __getitem__(self, i: int) -> Example:
        step, row = divmod(i, self._rows)
        return self._examples[step * self._batch_size + self._first + row]


def _pad(examples: Sequence[Example], feature_lengths: Mapping[str, int]) -> Batch:
    inputs, targets = (
        np.zeros((len(examples), feature_lengths[feature]), DTYPES["encoder_input_tokens"])
        for feature in ("inputs", "targets")
    )
    weights = np.zeros(targets.shape, DTYPES["decoder_loss_weights"])
    for row, example in enumerate(examples):
        inputs[row, : len(example["inputs"])] = example["inputs"]
        targets[row, : len(example["targets"])] = example["targets"]
        weights[row, : len(example["targets"])] = 1
    return {
        "encoder_input_tokens": inputs,
        "decoder_input_tokens": shift_right(targets),
        "decoder_target_tokens": targets,
        "decoder_loss_weights": weights,
    }


def _fitting(store: TokenStore, feature_lengths: Mapping[str, int]) -> np.ndarray:
    """Returns [examples] bool."""
    limits = [feature_lengths[feature] for feature in store.features]
    return np.all(store.lengths <= limits, axis=1)


def _chunk_tokens(feature_lengths: Mapping[str, int], sentinel_ids: np.ndarray) -> int:
    raw, targets = span_corruption.raw_length(feature_lengths["inputs"])
    if feature_lengths["targets"] < targets:
        raise InputError(
            f"span corruption to inputs of {feature_lengths['inputs']} tokens makes targets of {targets}, but "
            f"TASK_FEATURE_LENGTHS gives them {feature_lengths['targets']}; set 'targets' to {targets}"
        )
    # A vocabulary with too few sentinels fails here, not in a reading thread.
    span_corruption.corrupt(np.zeros(raw, np.int32), np.random.default_rng(0), sentinel_ids, EOS_ID)
    return raw


def _seed(seed: int, name: str, purpose: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}/{purpose}".encode()).digest()[:4], "little")
