"""Windows cover a sentence, and their spans merge: nothing lost, doubled or overlapping, whole ones before cut ones."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medmt5.decoding.windows import MIN_OVERLAP_WORDS, cut_windows, merge_spans


@given(st.lists(st.integers(1, 12), max_size=200), st.integers(12, 80))
def test_windows_cover_all_words_fit_and_advance(word_lengths, room):
    windows = cut_windows(word_lengths, room)
    assert sorted(set(itertools.chain(*(range(*window) for window in windows)))) == list(range(len(word_lengths)))
    assert all(sum(word_lengths[first:end]) <= room for first, end in windows)
    for (first, end), (next_first, next_end) in itertools.pairwise(windows):
        assert first < next_first <= end < next_end
        # What neighbours share is an eighth of the room or some words, unless there is no room for it.
        shared = word_lengths[next_first:end]
        with_one_more = sum(word_lengths[max(0, next_first - 1) : end + 1])
        assert len(shared) >= MIN_OVERLAP_WORDS or next_first - 1 == first or with_one_more > room
        assert sum(word_lengths[next_first - 1 : end]) > room // 8 or next_first - 1 == first or with_one_more > room
    if sum(word_lengths) <= room:
        assert windows == ([(0, len(word_lengths))] if word_lengths else [])


def test_the_last_window_reaches_back_as_far_as_it_has_room():
    assert cut_windows([1] * 70, room=64)[-1] == (6, 70)
    with pytest.raises(ValueError, match="a word of 9 pieces has no room in a window of 8"):
        cut_windows([9], room=8)


def random_spans(rng, first, end):
    """Spans apart from each other within words [first, end)."""
    size = min(end - first + 1, 2 * rng.integers(0, 6))
    edges = np.sort(rng.choice(np.arange(first, end + 1), size=size, replace=False))
    return [(int(s), int(e)) for s, e in zip(edges[::2], edges[1::2], strict=False)]


def random_windows(rng):
    word_lengths = rng.integers(1, 5, rng.integers(1, 60)).tolist()
    return cut_windows(word_lengths, int(rng.integers(5, 60))), len(word_lengths)


def merged(windows, spans):
    return [spans[number][index] for number, index in merge_spans(windows, spans)]


def test_whatever_the_windows_say_spans_never_overlap_and_each_is_some_windows():
    rng = np.random.default_rng(0)
    for _ in range(2000):
        windows, _ = random_windows(rng)
        spans = [random_spans(rng, *window) for window in windows]
        result = merged(windows, spans)
        assert result == sorted(set(result))
        assert all(end <= start for (_, end), (start, _) in itertools.pairwise(result))
        # A span that is not there gave way: to one that meets it, or to a window with more context that has none there.
        for window, of_window in zip(windows, spans, strict=True):
            for s, e in of_window:
                beaten = any(
                    not any(a < e and s < b for a, b in other_spans)
                    for other, other_spans in zip(windows, spans, strict=True)
                    if other != window and other[0] <= s and e <= other[1]
                )
                assert beaten or any(a < e and s < b for a, b in result)


def test_windows_that_agree_merge_to_the_plain_union():
    rng = np.random.default_rng(1)
    cut = 0
    for _ in range(2000):
        windows, num_words = random_windows(rng)
        truth = random_spans(rng, 0, num_words)
        # A window sees of a mention what it holds; what its edge cuts it tells, or not.
        spans = [
            [
                (max(s, first), min(e, end))
                for s, e in truth
                if s < end and first < e and ((first <= s and e <= end) or rng.random() < 0.7)
            ]
            for first, end in windows
        ]
        result = merged(windows, spans)
        whole = [(s, e) for s, e in truth if any(first <= s and e <= end for first, end in windows)]
        assert set(whole) <= set(result)
        for s, e in set(result) - set(whole):
            cut += 1
            inside = [(a, b) for a, b in truth if a <= s and e <= b]
            assert len(inside) == 1  # the longest part that a window saw of a mention longer than all overlaps
            assert inside[0] not in whole
    assert cut > 50
    assert merged([(0, 30)], [[(1, 2), (2, 30)]]) == [(1, 2), (2, 30)]
    assert merged([], []) == []


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        ([(8, 10)], [(8, 12)], [(8, 12)]),  # cut by the left window's edge
        ([(4, 7)], [(6, 7)], [(4, 7)]),  # cut by the right window's edge
        ([(5, 10)], [(6, 11)], [(5, 10)]),  # whole in neither: the longer part, then the left
        ([(7, 8)], [(7, 8)], [(7, 8)]),  # the same in both
        ([(7, 8)], [], [(7, 8)]),  # 1 word of context in the right window, 2 in the left
        ([(8, 9)], [], []),  # 2 words of context in the right window, which sees nothing there
        ([], [(6, 7)], []),
        ([(6, 8)], [(7, 9)], [(6, 8)]),  # they disagree, with 2 and 1 words of context
        ([(1, 2), (9, 10)], [(14, 16)], [(1, 2), (14, 16)]),
    ],
)
def test_the_window_with_more_context_decides(left, right, expected):
    assert merged([(0, 10), (6, 16)], [left, right]) == expected
