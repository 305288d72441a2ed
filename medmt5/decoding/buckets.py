"""Padded lengths: a few sizes, so that a test set of any lengths compiles a handful of programs."""

from __future__ import annotations

SMALLEST = 16


def bucket_length(length: int) -> int:
    """Returns the least of 16, 24, 32, 48, 64, 96, … that holds `length`; padding is under a third beyond 16.

    >>> [bucket_length(n) for n in (0, 16, 17, 25, 33, 100, 513)]
    [16, 16, 24, 32, 48, 128, 768]
    """
    size = SMALLEST
    while size < length:
        size = size * 3 // 2 if size & (size - 1) == 0 else size * 4 // 3
    return size
