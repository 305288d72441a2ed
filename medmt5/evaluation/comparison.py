"""What became of each span: correct, or which kind of error. For people; `span_scores` counts every error alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from medmt5.annotation.spans import Span

Kind = Literal["correct", "missed", "spurious", "wrong label", "wrong boundary"]


class Finding(NamedTuple):
    """A predicted span with its kind and the gold span it should have been, or a gold span that was missed."""

    span: Span
    kind: Kind
    gold: Span | None


def compare_spans(gold: Sequence[Span], predicted: Sequence[Span]) -> list[Finding]:
    """Returns a finding for each predicted span and for each gold span that no prediction touches, in order of place.

    A prediction that overlaps gold spans is held against the one it shares most words with. With that one's label it
    has the wrong boundary, otherwise the wrong label (wherever it ends).

    >>> [finding.kind for finding in compare_spans([Span(0, 2, "Drug"), Span(5, 6, "Drug")], [Span(1, 2, "Drug")])]
    ['wrong boundary', 'missed']
    """
    findings = []
    for span in predicted:
        nearest = max(gold, key=lambda other: (_shared(span, other), other == span), default=None)
        if nearest is None or not _shared(span, nearest):
            findings.append(Finding(span, "spurious", None))
        elif nearest == span:
            findings.append(Finding(span, "correct", nearest))
        else:
            findings.append(Finding(span, "wrong boundary" if nearest.label == span.label else "wrong label", nearest))
    missed = (span for span in gold if not any(_shared(span, other) for other in predicted))
    return sorted([*findings, *(Finding(span, "missed", span) for span in missed)])


def _shared(one: Span, other: Span) -> int:
    return max(0, min(one.end, other.end) - max(one.start, other.start))
