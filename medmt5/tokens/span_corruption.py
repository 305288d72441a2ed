"""Span corruption: text with holes in, the holes' content out.

Raffel et al. 2020, section 3.1.4, as T5 and mT5 were trained: random spans are replaced by one sentinel each in the
inputs; the targets are the sentinels, each followed by what it hides. Both end with EOS. There is no sentinel after the
last span, as in T5's code and unlike the paper's figure 2. Numpy only: the loader and the SeqIO preprocessor share it.
"""

from __future__ import annotations

import numpy as np

from medmt5.errors import InputError

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
    tokens: np.ndarray,
    rng: np.random.Generator,
    sentinel_ids: np.ndarray,
    eos_id: int,
    noise_density: float = NOISE_DENSITY,
    mean_span_length: float = MEAN_SPAN_LENGTH,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns (inputs, targets), both ending with EOS, for a text of at least one token.

    The number of noise tokens and of spans depends on the length alone; where they lie is uniformly random. A text
    starts with a kept span and ends with a hidden one. A text of one token keeps it and hides nothing, as T5's.

    Args:
      tokens: [length] int32, without EOS.
      rng: the source of all randomness.
      sentinel_ids: [sentinels] int32, the first hides the first span.
    """
    length = len(tokens)
    if length == 0:
        raise ValueError("no tokens to corrupt")
    noise, spans = _noise(max(length, 2), noise_density, mean_span_length)
    if spans > len(sentinel_ids):
        raise InputError(
            f"{length} tokens make {spans} spans, but the vocabulary has {len(sentinel_ids)} sentinels; "
            "shorten the inputs of TASK_FEATURE_LENGTHS"
        )
    kept_lengths = _random_segmentation(max(length, 2) - noise, spans, rng)
    noise_lengths = _random_segmentation(noise, spans, rng)
    # Spans alternate: kept, hidden, kept, …; `ends` are those of all of them.
    ends = np.cumsum(np.stack([kept_lengths, noise_lengths], axis=1).reshape(-1))
    starts = np.concatenate([[0], ends[:-1]])
    hidden = (np.searchsorted(ends, np.arange(length), side="right") % 2).astype(bool)
    noise_starts = starts[1::2][starts[1::2] < length]
    return (
        _with_sentinels(tokens, ~hidden, noise_starts, sentinel_ids, eos_id),
        _with_sentinels(tokens, hidden, starts[0::2], sentinel_ids, eos_id),
    )


def restore(inputs: np.ndarray, targets: np.ndarray, sentinel_ids: np.ndarray, eos_id: int) -> np.ndarray:
    """Returns the text that `corrupt` was given, [length] int32; ignores what follows the EOS of either (padding)."""
    inputs, targets = (ids[: np.flatnonzero(ids == eos_id)[0]] for ids in (inputs, targets))
    at = np.flatnonzero(np.isin(targets, sentinel_ids))
    hidden = {int(part[0]): part[1:] for part in np.split(targets, at)[1:]}
    kept = np.split(inputs, np.flatnonzero(np.isin(inputs, sentinel_ids)))
    return np.concatenate([kept[0], *(part for span in kept[1:] for part in (hidden[int(span[0])], span[1:]))])


def _noise(length: int, noise_density: float, mean_span_length: float) -> tuple[int, int]:
    """Returns the number of noise tokens and of spans of them for a text of `length` tokens: one at least, not all."""
    noise = min(max(round(length * noise_density), 1), length - 1)
    return noise, max(round(noise / mean_span_length), 1)


def _random_segmentation(items: int, segments: int, rng: np.random.Generator) -> np.ndarray:
    """Returns [segments] lengths of at least 1 that sum to `items`, every such composition equally likely."""
    cuts = np.sort(rng.choice(items - 1, segments - 1, replace=False)) + 1
    return np.diff(np.concatenate([[0], cuts, [items]]))


def _with_sentinels(
    tokens: np.ndarray, keep: np.ndarray, sentinels_at: np.ndarray, sentinel_ids: np.ndarray, eos_id: int
) -> np.ndarray:
    """Returns the tokens to keep, with sentinel i at `sentinels_at[i]` (a position that is not kept), and EOS."""
    text, keep = tokens.astype(np.int32), keep.copy()
    text[sentinels_at] = sentinel_ids[: len(sentinels_at)]
    keep[sentinels_at] = True
    return np.append(text[keep], np.int32(eos_id))
