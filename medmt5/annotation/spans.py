"""Spans, and their other two forms: IOB2 tags on words, and character offsets in text.

A span is (start, end, label), end exclusive. This module never sees text: offsets of words come from
`words.split_words`. Spans neither overlap nor nest; where a source's do, `to_words` keeps the longer ones and reports
the rest.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from medmt5.errors import InputError

TAG = re.compile(r"O|[BIESLU]-\S+")
# The last and the only word of a span: E and S in IOBES, L and U in BILOU.
LAST, SINGLE = ("E", "L"), ("S", "U")


class Span(NamedTuple):
    """A labelled stretch of words or of characters (the name of the variable says which), end exclusive."""

    start: int
    end: int
    label: str


class Problem(NamedTuple):
    """What had to be done to a character span to make it words."""

    kind: str
    span: Span


def tags_to_spans(tags: Sequence[str]) -> list[Span]:
    """Returns the word spans of IOB1, IOB2, IOBES or BILOU tags, as conlleval and seqeval's default mode read them.

    A tag that cannot continue the span before it opens one, I- included.

    >>> tags_to_spans(["B-Drug", "I-Drug", "O", "I-Disease"])
    [Span(start=0, end=2, label='Drug'), Span(start=3, end=4, label='Disease')]
    """
    spans = []
    previous, previous_label, start = "O", "", 0
    for position, tag in enumerate([*tags, "O"]):
        if not TAG.fullmatch(tag):
            raise InputError(
                f"a tag must be O, or B, I, E, S, L or U with a dash and a label, not {tag!r} (word {position})"
            )
        prefix, _, label = tag.partition("-")
        opens = prefix != "O" and (
            prefix in ("B", *SINGLE) or previous in ("O", *LAST, *SINGLE) or label != previous_label
        )
        if previous != "O" and (opens or prefix == "O"):
            spans.append(Span(start, position, previous_label))
        if opens:
            start = position
        previous, previous_label = prefix, label
    return spans


def spans_to_tags(spans: Iterable[Span], num_words: int) -> list[str]:
    """Returns IOB2 tags for word spans; InputError if spans overlap, are empty, or leave the `num_words` words.

    >>> spans_to_tags([Span(1, 3, "Disease")], 4)
    ['O', 'B-Disease', 'I-Disease', 'O']
    """
    tags = ["O"] * num_words
    for start, end, label in spans:
        if not 0 <= start < end <= num_words:
            raise InputError(
                f"a span must hold at least one of the {num_words} words; {label} is from {start} to {end}"
            )
        if any(tag != "O" for tag in tags[start:end]):
            raise InputError(
                f"spans must not overlap; {label} from word {start} to {end} meets another one: keep one of them"
            )
        tags[start:end] = [f"B-{label}"] + [f"I-{label}"] * (end - start - 1)
    return tags


def to_characters(word_spans: Iterable[Span], offsets: Sequence[tuple[int, int]]) -> list[Span]:
    """Returns character spans for word spans, given the character offsets of the words.

    >>> to_characters([Span(1, 3, "Drug")], [(0, 4), (5, 10), (11, 15)])
    [Span(start=5, end=15, label='Drug')]
    """
    return [Span(offsets[start][0], offsets[end - 1][1], label) for start, end, label in word_spans]


def to_words(character_spans: Iterable[Span], offsets: Sequence[tuple[int, int]]) -> tuple[list[Span], list[Problem]]:
    """Returns sorted word spans, and what was repaired: cut words made whole, the longer of overlapping spans kept.

    >>> to_words([Span(2, 8, "Drug"), Span(4, 5, "Drug")], [(0, 4), (5, 10)])[0]
    [Span(start=0, end=2, label='Drug')]
    """
    starts, ends = [start for start, _ in offsets], [end for _, end in offsets]
    found, problems = [], []
    for span in character_spans:
        first, stop = bisect_right(ends, span.start), bisect_left(starts, span.end)
        if span.start >= span.end or first >= stop:
            problems.append(Problem("span without a word dropped", span))
            continue
        if starts[first] < span.start or span.end < ends[stop - 1]:
            problems.append(Problem("span widened to whole words", span))
        found.append((Span(first, stop, span.label), span))

    kept: list[Span] = []
    # Longest first; then by place and label, so that the outcome does not depend on the order in the file.
    for words, span in sorted(found, key=lambda pair: (pair[0].start - pair[0].end, pair[0], pair[1])):
        place = bisect_left(kept, words)  # those kept lie apart, so that only the neighbours can meet this one
        if (place and kept[place - 1].end > words.start) or (place < len(kept) and kept[place].start < words.end):
            problems.append(Problem("overlapping span dropped", span))
        else:
            kept.insert(place, words)
    return kept, problems
