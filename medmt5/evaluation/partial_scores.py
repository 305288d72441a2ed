"""Four ways to hold predicted spans against gold ones: strict, exact, partial, type.

They are those of SemEval-2013 task 9 (Segura-Bedmar et al. 2013), which took them from MUC-5 (Chinchor and Sundheim
1993). Gold and predicted spans are paired one to one; a pair must overlap. What a pair is worth:

| | strict | exact (boundary only) | partial | type |
|---|---|---|---|---|
| same boundary, same label | 1 | 1 | 1 | 1 |
| same boundary, other label | 0 | 1 | 1 | 0 |
| overlap, same label | 0 | 0 | 1/2 | 1 |
| overlap, other label | 0 | 0 | 1/2 | 0 |

With the sum of it as `correct`, precision is correct / predicted and recall correct / gold (MUC's actual and possible).
Where a span overlaps several, neither source says which to pair; here each way has the pairs that are worth most to it.
"""

from __future__ import annotations

from collections.abc import Collection

from medmt5.annotation.spans import Span
from medmt5.evaluation.span_scores import Counts

WAYS = ("strict", "exact", "partial", "type")


def score_ways(gold: Collection[Span], predicted: Collection[Span]) -> dict[str, Counts]:
    """Returns way -> counts of a sentence; `correct` is a multiple of 1/2. The spans of one side must not overlap.

    >>> ways = score_ways([Span(0, 2, "Drug")], [Span(1, 2, "Drug")])
    >>> {way: counts.correct for way, counts in ways.items()}
    {'strict': 0, 'exact': 0, 'partial': 0.5, 'type': 1}
    """
    gold, predicted = set(gold), set(predicted)
    exact = len({span[:2] for span in gold} & {span[:2] for span in predicted})
    correct: dict[str, float] = {
        "strict": len(gold & predicted),
        "exact": exact,
        # A pair of the same boundary overlaps nothing else, so it is among the most pairs there can be.
        "partial": (exact + count_pairs(gold, predicted)) / 2,
        "type": sum(
            count_pairs({span for span in gold if span.label == label}, {s for s in predicted if s.label == label})
            for label in {span.label for span in gold}
        ),
    }
    return {way: Counts(len(gold), len(predicted), correct[way]) for way in WAYS}


def count_pairs(gold: Collection[Span], predicted: Collection[Span]) -> int:
    """Returns how many pairs of overlapping spans can be made at most, each span used once.

    >>> count_pairs([Span(0, 4, "Drug"), Span(4, 6, "Drug")], [Span(0, 1, "Drug"), Span(3, 5, "Drug")])
    2
    """
    lefts, rights = sorted(gold, reverse=True), sorted(predicted, reverse=True)
    pairs = 0
    while lefts and rights:
        left, right = lefts[-1], rights[-1]
        if left.start < right.end and right.start < left.end:
            # No later span of either side could use the two better: one of them is the first that ends.
            pairs += 1
            lefts.pop()
            rights.pop()
        elif left.end <= right.start:
            lefts.pop()
        else:
            rights.pop()
    return pairs
