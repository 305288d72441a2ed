"""Span corruption: text with holes in, the holes' content out.

Raffel et al. 2020, section 3.1.4, as T5 and mT5 were trained: random spans are replaced by one sentinel each in the
inputs; the targets are the sentinels, each followed by what it hides. Both end with EOS. There is no sentinel after the
last span, as in T5's code and unlike the paper's figure 2. Numpy only: the loader and the SeqIO preprocessor share it.
"""

from __future__ import annotations

import hashlib

import numpy as np

from medmt5.errors import InputError
from medmt5.tokens.random_numbers import random_numbers

NOISE_DENSITY = 0.15
MEAN_SPAN_LENGTH = 3.0


def raw_length(
    inputs_length: int, noise_density: float = NOISE_DENSITY, mean_span_length: float = MEAN_SPAN_LENGTH
) -> tuple[int, int]:
    """Returns (tokens of text, tokens of targets) for corrupted inputs of at most `inputs_length` tokens, EOS counted.

    >>> raw_length(512)
    (568, 114)
    """
    if inputs_length < 3:
        raise InputError(
            f"span corruption needs inputs of at least 3 tokens (text, sentinel, EOS), not {inputs_length}"
        )

    def corrupted(length: int) -> tuple[int, int]:
        noise, spans = _noise(length, noise_density, mean_span_length)
        return length - noise + spans + 1, noise + spans + 1

    raw = 2
    while corrupted(raw + 1)[0] <= inputs_length:
        raw += 1
    return raw, corrupted(raw)[1]


def corrupt(
    texts: np.ndarray,
    keys: np.ndarray,
    sentinel_ids: np.ndarray,
    eos_id: int,
    noise_density: float = NOISE_DENSITY,
    mean_span_length: float = MEAN_SPAN_LENGTH,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns (inputs [rows, *], targets [rows, *]) int32, all ending with EOS, for texts of equal length.

    The number of noise tokens and of spans depends on the length alone, and with them the lengths of inputs and
    targets; where the spans lie is uniformly random. A text starts with a kept span and ends with a hidden one. A text
    of one token keeps it and hides nothing, as T5's.

    Args:
      texts: [rows, length] int32, without EOS; at least one token long.
      keys: [rows] uint64; each decides where the noise of its row lies.
      sentinel_ids: [sentinels] int32, the first hides the first span.
    """
    rows, length = texts.shape
    if length == 0:
        raise ValueError("no tokens to corrupt")
    check_sentinels(length, sentinel_ids, noise_density, mean_span_length)
    if length == 1:
        return _end(texts, eos_id), _end(np.full((rows, 1), sentinel_ids[0]), eos_id)
    noise, spans = _noise(length, noise_density, mean_span_length)
    kept = length - noise
    numbers = random_numbers(keys, length - 2)
    # Spans alternate, kept, hidden, kept, …, and none is empty; a row is a whole number of such pairs.
    lengths = np.empty((rows, spans, 2), np.intp)
    lengths[:, :, 0] = _random_segmentations(kept, spans, numbers[:, : kept - 1])
    lengths[:, :, 1] = _random_segmentations(noise, spans, numbers[:, kept - 1 :])
    ends = np.cumsum(lengths.ravel()).reshape(-1, 2)  # of kept and hidden spans, in the texts laid end to end
    hidden = np.repeat(np.tile([False, True], rows * spans), lengths.ravel())
    kept_starts = np.concatenate([[0], ends[:-1, 1]])
    return (
        _end(_with_sentinels(texts, ~hidden, ends[:, 0], sentinel_ids[:spans]), eos_id),
        _end(_with_sentinels(texts, hidden, kept_starts, sentinel_ids[:spans]), eos_id),
    )


def noise_seed(seed: int, task: str) -> int:
    """Returns the 64-bit seed of a task's noise; with `make_keys(noise_seed, epoch, chunk)` it is the key of a text."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{task}/noise".encode()).digest()[:8], "little")


def check_sentinels(
    length: int,
    sentinel_ids: np.ndarray,
    noise_density: float = NOISE_DENSITY,
    mean_span_length: float = MEAN_SPAN_LENGTH,
) -> None:
    """Raises InputError unless there is a sentinel for each span of a text of `length` tokens."""
    _, spans = _noise(max(length, 2), noise_density, mean_span_length)
    if spans > len(sentinel_ids):
        raise InputError(
            f"{length} tokens make {spans} spans, but the vocabulary has {len(sentinel_ids)} sentinels; "
            "shorten the inputs of TASK_FEATURE_LENGTHS"
        )


def restore(inputs: np.ndarray, targets: np.ndarray, sentinel_ids: np.ndarray, eos_id: int) -> np.ndarray:
    """Returns the text that a row of `corrupt` was made of, [length] int32; ignores what follows the EOS of either
    (padding).
    """
    inputs, targets = (ids[: np.flatnonzero(ids == eos_id)[0]] for ids in (inputs, targets))
    at = np.flatnonzero(np.isin(targets, sentinel_ids))
    hidden = {int(part[0]): part[1:] for part in np.split(targets, at)[1:]}
    kept = np.split(inputs, np.flatnonzero(np.isin(inputs, sentinel_ids)))
    return np.concatenate([kept[0], *(part for span in kept[1:] for part in (hidden[int(span[0])], span[1:]))])


def _noise(length: int, noise_density: float, mean_span_length: float) -> tuple[int, int]:
    """Returns the number of noise tokens and of spans of them for a text of `length` tokens: one at least, not all."""
    noise = min(max(round(length * noise_density), 1), length - 1)
    return noise, max(round(noise / mean_span_length), 1)


def _random_segmentations(items: int, segments: int, numbers: np.ndarray) -> np.ndarray:
    """Returns [rows, segments] lengths of at least 1 that sum to `items`, every such composition equally likely.

    `numbers` are independent random ones, [rows, items - 1]: where the smallest are, the items are cut.
    """
    cuts = np.zeros((len(numbers), segments + 1), np.intp)
    if segments > 1:
        cuts[:, 1:-1] = np.sort(np.argpartition(numbers, segments - 2, axis=1)[:, : segments - 1]) + 1
    cuts[:, -1] = items
    return np.diff(cuts)


def _with_sentinels(
    texts: np.ndarray, keep: np.ndarray, sentinels_at: np.ndarray, sentinel_ids: np.ndarray
) -> np.ndarray:
    """Returns [rows, *]: the tokens of [rows, length] to keep, and each row's sentinels.

    `keep` and `sentinels_at`, positions that are not kept, are of the texts laid end to end.
    """
    rows = len(texts)
    text, keep = texts.ravel().copy(), keep.copy()
    text[sentinels_at] = np.tile(sentinel_ids, rows)
    keep[sentinels_at] = True
    return text[keep].reshape(rows, -1)


def _end(texts: np.ndarray, eos_id: int) -> np.ndarray:
    return np.pad(texts.astype(np.int32, copy=False), ((0, 0), (0, 1)), constant_values=eos_id)
