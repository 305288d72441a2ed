"""How far a micro-F1 can be trusted: bootstrap intervals, and tests of the difference between two runs.

Documents are what is drawn, for sentences of one document are not independent. F1 needs three sums only, so a resample
is a vector of how often each document was drawn, and all resamples are one product of matrices.

Counts are [documents, 3] int64: gold, predicted, correct spans; in between there may be other axes, as of labels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 1000
SHUFFLES = 10_000
CONFIDENCE = 0.95
SEED = 0
MAX_CELLS = 1 << 22
"""Documents times resamples that are held at once."""


@dataclass(frozen=True)
class Difference:
    """How a second run differs from a first one on the same documents.

    Attributes:
      f1: F1 of the second minus F1 of the first.
      interval: of that, by paired bootstrap; None as for `bootstrap_f1`.
      p: how often chance alone makes a difference as large, in either direction.
    """

    f1: float
    interval: tuple[float, float] | None
    p: float


def bootstrap_f1(counts: np.ndarray, resamples: int = RESAMPLES) -> list[tuple[float, float] | None]:
    """Returns the percentile interval (Efron and Tibshirani 1993, chapter 13) of each F1: [documents, k, 3] -> k.

    Resamples in which an F1 is 0/0 are left out of its interval. None where there are fewer than two documents to draw
    from, or F1 is 0/0 in every resample.
    """
    documents = len(counts)
    if documents < 2:
        return [None] * counts.shape[1]
    flat = counts.reshape(documents, -1).astype(np.float64)
    f1 = np.concatenate(
        [_f1((weights @ flat).reshape(len(weights), *counts.shape[1:])) for weights in _resamples(documents, resamples)]
    )
    return [_interval(column) for column in f1.T]


def compare_f1(
    first: np.ndarray, second: np.ndarray, resamples: int = RESAMPLES, shuffles: int = SHUFFLES
) -> Difference | None:
    """Returns the difference between two runs on the same documents, [documents, 3] each; None without gold spans.

    `interval` draws documents with the counts of both runs (paired bootstrap; Koehn 2004). `p` is that of approximate
    randomisation (Noreen 1989; for F1: Yeh 2000): if the runs were alike, each document's two outputs could as well be
    swapped. p = (1 + shuffles with at least that difference) / (1 + shuffles), two-sided.
    """
    if not np.array_equal(first[:, 0], second[:, 0]):
        raise ValueError("both runs must have been scored on the same documents: their gold spans differ")
    if not first[:, 0].sum():
        return None
    documents = len(first)
    both = np.concatenate([first, second], axis=1).astype(np.float64)
    observed = _f1(second.sum(0)) - _f1(first.sum(0))
    resampled = np.concatenate(
        [
            _f1(drawn[:, 3:]) - _f1(drawn[:, :3])
            for drawn in (weights @ both for weights in _resamples(documents, resamples))
        ]
    )
    moved = (second - first).astype(np.float64)
    at_least = 0
    generator = np.random.default_rng(SEED)
    for size in _blocks(shuffles, documents):
        swapped = generator.integers(2, size=(size, documents), dtype=np.int8) @ moved
        shuffled = _f1(second.sum(0) - swapped) - _f1(first.sum(0) + swapped)
        # Equal fractions may differ in their last bit.
        at_least += int((np.abs(shuffled) >= abs(observed) - 1e-12).sum())
    return Difference(float(observed), _interval(resampled) if documents > 1 else None, (1 + at_least) / (1 + shuffles))


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float | None]:
    """Returns the mean and the sample standard deviation (n - 1 below the line), None for a single value.

    >>> mean_and_deviation([0.5, 0.75, 1.0])
    (0.75, 0.25)
    """
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None


def _resamples(documents: int, resamples: int) -> Iterator[np.ndarray]:
    """Yields how often each document is drawn, [resamples, documents] float64, the same ones at each call."""
    generator = np.random.default_rng(SEED)
    for size in _blocks(resamples, documents):
        drawn = generator.integers(documents, size=(size, documents)) + documents * np.arange(size)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=size * documents)
        yield counts.reshape(size, documents).astype(np.float64)


def _blocks(total: int, documents: int) -> Iterator[int]:
    size = max(1, MAX_CELLS // documents)
    for start in range(0, total, size):
        yield min(size, total - start)


def _f1(counts: np.ndarray) -> np.ndarray:
    """[..., 3] -> [...] float64, NaN for 0/0."""
    whole = counts[..., 0] + counts[..., 1]
    return np.divide(2 * counts[..., 2], whole, out=np.full(whole.shape, np.nan), where=whole > 0)


def _interval(values: np.ndarray) -> tuple[float, float] | None:
    values = values[~np.isnan(values)]
    if not len(values):
        return None
    low, high = np.percentile(values, [50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE)])
    return float(low), float(high)
