"""A sentence longer than the model reads: windows of words that overlap, and their spans made one list.

Words and pieces are counted, never seen. A window's edge is *inner* where the sentence goes on beyond it. The context
of a stretch of words in a window is the distance, in words, to the nearer inner edge.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import accumulate

MIN_OVERLAP_WORDS = 8
"""A shorter mention that one window's edge cuts is whole in the next window."""

Window = tuple[int, int]


def cut_windows(word_lengths: Sequence[int], room: int) -> list[Window]:
    """Returns windows (first word, end word exclusive) of at most `room` pieces that cover all words, in order.

    Neighbours share an eighth of the room, or `MIN_OVERLAP_WORDS` words if that is more, as far as they fit; the last
    window reaches back as far as it has room.

    >>> cut_windows([1] * 5, room=5)
    [(0, 5)]
    >>> cut_windows([1] * 100, room=64)
    [(0, 64), (36, 100)]
    >>> cut_windows([1] * 160, room=64), cut_windows([], room=64)
    ([(0, 64), (56, 120), (96, 160)], [])

    Raises:
      ValueError: a word longer than the room.
    """
    if max(word_lengths, default=0) > room:
        raise ValueError(f"a word of {max(word_lengths)} pieces has no room in a window of {room}")
    before = [0, *accumulate(word_lengths)]  # pieces before each word, and of all
    windows: list[Window] = []
    total, first, end = len(word_lengths), 0, 0
    while end < total:
        end = bisect_right(before, before[first] + room) - 1
        windows.append((first, end))
        if end < total:
            first = _next_first(before, room, first, end)
    return windows


def _next_first(before: Sequence[int], room: int, previous_first: int, end: int) -> int:
    """Returns where the window that must hold word `end` begins, its predecessor being [previous_first, end)."""
    first = end
    while first - 1 > previous_first:
        shared = before[end] - before[first - 1]
        fits = before[end + 1] - before[first - 1] <= room
        is_last = before[-1] - before[first - 1] <= room
        if not fits or not (shared <= room // 8 or end - first < MIN_OVERLAP_WORDS or is_last):
            break
        first -= 1
    return first


def merge_spans(windows: Sequence[Window], spans: Sequence[Sequence[tuple[int, int]]]) -> list[tuple[int, int]]:
    """Returns which spans of which window make up the sentence's, as (window, index into its spans), in text order.

    Where windows overlap, a span is taken from the window in which it has most context, and not at all if a window in
    which these words have more context sees nothing there. Of spans that overlap, that with more context stays, then
    the longer: a span that an edge cuts gives way to the whole one. With one window all its spans are returned.

    >>> windows = [(0, 10), (6, 16)]
    >>> merge_spans(windows, [[(1, 2), (8, 10)], [(8, 12)]])  # the first window's edge cuts the mention
    [(0, 0), (1, 0)]

    Args:
      windows: of `cut_windows`: beginnings and ends increase.
      spans: of each window, (start, end) in words of the sentence; those of a window do not overlap.
    """
    firsts, ends = [first for first, _ in windows], [end for _, end in windows]

    def context(number: int, start: int, end: int) -> float:
        """Of words that the window holds."""
        left = start - firsts[number] if firsts[number] > 0 else math.inf
        return min(left, ends[number] - end if ends[number] < ends[-1] else math.inf)

    def sees_nothing(number: int, start: int, end: int) -> bool:
        return not any(s < end and start < e for s, e in spans[number])

    candidates = []
    for number, of_window in enumerate(spans):
        for index, (start, end) in enumerate(of_window):
            own = context(number, start, end)
            holding = range(bisect_left(ends, end), bisect_right(firsts, start))
            if not any(context(n, start, end) > own and sees_nothing(n, start, end) for n in holding):
                candidates.append((-own, start - end, number, index))
    kept: list[tuple[int, int, int, int]] = []  # (start, end, window, index), sorted, apart
    for *_, number, index in sorted(candidates):
        start, end = spans[number][index]
        place = bisect_left(kept, (start,))
        apart_from_left = place == 0 or kept[place - 1][1] <= start
        if apart_from_left and (place == len(kept) or end <= kept[place][0]):
            kept.insert(place, (start, end, number, index))
    return [(number, index) for _, _, number, index in kept]
