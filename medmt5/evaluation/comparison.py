"""What became of each span: correct, or which kind of error. For people; `span_scores` counts every error alike.

Gold and predicted spans that overlap, directly or through others, make a case, and each case is of one kind, so that
the kinds divide the gold spans as well as the predicted ones. Swapping gold and predicted swaps "missed" with
"spurious" and "split" with "merged" and changes nothing else. Only overlap, equality and labels count: words and
characters as offsets give the same cases.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple, get_args

from medmt5.annotation.spans import Span
from medmt5.evaluation.span_scores import Counts

Kind = Literal["correct", "wrong label", "wrong boundary", "split", "merged", "tangled", "missed", "spurious"]
KINDS: tuple[Kind, ...] = get_args(Kind)


class Case(NamedTuple):
    """Gold and predicted spans that belong together, each in order of place.

    correct: one each, equal. wrong label: one each, of different labels, wherever they end. wrong boundary: one each,
    of the same label. split: one gold span, several predicted. merged: several gold spans, one predicted. tangled:
    several each, chained by their overlaps. missed, spurious: nothing on the other side. In the last five, labels do
    not count.
    """

    kind: Kind
    gold: tuple[Span, ...]
    predicted: tuple[Span, ...]


def compare_spans(gold: Iterable[Span], predicted: Iterable[Span]) -> list[Case]:
    """Returns the cases of a sentence in order of place. The spans of one side must not overlap each other.

    >>> [case.kind for case in compare_spans([Span(0, 2, "Drug"), Span(5, 6, "Drug")], [Span(1, 2, "Drug")])]
    ['wrong boundary', 'missed']
    """
    spans = sorted([(span, True) for span in set(gold)] + [(span, False) for span in set(predicted)])
    groups: list[tuple[list[Span], list[Span]]] = []
    end = 0
    for span, is_gold in spans:
        if not groups or span.start >= end:
            groups.append(([], []))
        groups[-1][0 if is_gold else 1].append(span)
        end = max(end, span.end)
    return [Case(_kind(*group), *map(tuple, group)) for group in groups]


def count_kinds(cases: Iterable[Case]) -> dict[Kind, Counts]:
    """Returns for each kind how many gold and predicted spans its cases hold; the sums are all that there are."""
    counts: dict[Kind, Counts] = dict.fromkeys(KINDS, Counts())
    for case in cases:
        counts[case.kind] += Counts(len(case.gold), len(case.predicted), len(case.gold) * (case.kind == "correct"))
    return counts


def _kind(gold: Sequence[Span], predicted: Sequence[Span]) -> Kind:
    if not predicted:
        return "missed"
    if not gold:
        return "spurious"
    if len(gold) > 1 or len(predicted) > 1:
        return "split" if len(gold) == 1 else "merged" if len(predicted) == 1 else "tangled"
    if gold == predicted:
        return "correct"
    return "wrong boundary" if gold[0].label == predicted[0].label else "wrong label"
