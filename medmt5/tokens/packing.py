"""Which examples share a row, so that short ones do not leave most of it to padding.

Each example goes to the row that it fills best, among the `OPEN_ROWS` that its stream fills at a time; where none has
room, the fullest is closed and a new one opened (best fit in bounded space). One by one in Python that takes
microseconds an example, so the examples are dealt to streams of about `STREAM_EXAMPLES`, and the next example of every
stream is placed at once: a million take a fifth of a second.

Sentences of about 40 tokens take 1.4 % more rows of 512 tokens than their tokens fill, and 4.8 % more of 128; next fit,
which looks at one row, 6.8 and 32 %.
"""

from __future__ import annotations

import numpy as np

OPEN_ROWS = 16
STREAM_EXAMPLES = 1024


def pack(lengths: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """Returns the row of each example, [n] int64; rows count from 0 and none is empty.

    Args:
      lengths: [n, features] integers, none above its limit. Neighbours tend to share rows: shuffle them.
      limits: [features] integers, what a row has room for.
    """
    streams = -(-len(lengths) // STREAM_EXAMPLES)
    lengths, limits = lengths.T.astype(np.int64), np.asarray(limits, np.int64)
    # Room in a row is the sum of the free shares of its features, times the product of the limits: a whole number.
    weights = np.prod(limits) // limits
    no_room = 2 * len(limits) * np.prod(limits)  # larger than the difference of any two
    free = np.zeros((len(limits), streams, OPEN_ROWS), np.int64)
    open_rows = np.zeros((streams, OPEN_ROWS), np.int64)
    rows = np.empty(lengths.shape[1], np.int64)
    num_rows = 0
    for start in range(0, len(rows), streams):
        sizes = lengths[:, start : start + streams]
        stream = np.arange(sizes.shape[1])
        left = free[:, : len(stream)] - sizes[..., None]
        full = (left < 0).any(axis=0)
        room = np.tensordot(weights, left, axes=1)
        place = np.argmin(room + no_room * full, axis=1)  # the fullest that has room, else the fullest
        opening = np.flatnonzero(full[stream, place])
        open_rows[opening, place[opening]] = num_rows + np.arange(len(opening))
        num_rows += len(opening)
        free[:, opening, place[opening]] = limits[:, None]
        free[:, stream, place] -= sizes
        rows[start : start + streams] = open_rows[stream, place]
    return rows
