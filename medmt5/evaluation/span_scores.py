"""Entity-level precision, recall and micro-F1: a predicted span is correct if a gold one has its start, end and label.

The numbers are seqeval's (default mode), reached by counting: `Scores` hold counts only, so scores of parts add up to
those of the whole. Where a ratio is 0/0 it is undefined and None here: precision without predictions, recall without
gold, F1 without either. seqeval gives 0 or 1 there, as told, which would praise or blame a model for nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from medmt5.annotation.spans import Span


@dataclass(frozen=True)
class Counts:
    """Numbers of spans: in the gold standard, predicted, and correct (exactly as in the gold standard, if nothing else
    is said; `partial_scores` counts halves too).
    """

    gold: int = 0
    predicted: int = 0
    correct: float = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.gold + other.gold, self.predicted + other.predicted, self.correct + other.correct)

    def to_json(self) -> dict[str, Any]:
        return {
            "f1": _ratio(2 * self.correct, self.gold + self.predicted),
            "precision": _ratio(self.correct, self.predicted),
            "recall": _ratio(self.correct, self.gold),
            "gold": self.gold,
            "predicted": self.predicted,
            "correct": self.correct,
        }


@dataclass(frozen=True)
class Scores:
    """Counts of each label over a number of sentences."""

    sentences: int = 0
    labels: Mapping[str, Counts] = field(default_factory=dict)

    @property
    def total(self) -> Counts:
        return sum(self.labels.values(), Counts())

    @property
    def f1(self) -> float | None:
        """Micro-F1 over all labels."""
        return self.total.to_json()["f1"]

    def __add__(self, other: Scores) -> Scores:
        names = sorted({*self.labels, *other.labels})
        labels = {name: self.labels.get(name, Counts()) + other.labels.get(name, Counts()) for name in names}
        return Scores(self.sentences + other.sentences, labels)

    def to_json(self) -> dict[str, Any]:
        """Returns S of docs/architecture.md."""
        return {
            **self.total.to_json(),
            "sentences": self.sentences,
            "labels": {name: counts.to_json() for name, counts in self.labels.items()},
        }

    @classmethod
    def from_json(cls, scores: Mapping[str, Any]) -> Scores:
        """Returns the scores that `to_json` gave."""
        counts = {
            name: Counts(label["gold"], label["predicted"], label["correct"])
            for name, label in scores["labels"].items()
        }
        return cls(scores["sentences"], counts)


def score_spans(gold: Sequence[Sequence[Span]], predicted: Sequence[Sequence[Span]]) -> Scores:
    """Returns the scores of predicted spans, a list of them a sentence, against the gold ones.

    >>> gold = [[Span(0, 2, "Drug"), Span(3, 4, "Disease")], []]
    >>> score_spans(gold, [[Span(0, 2, "Drug"), Span(2, 4, "Disease")], []]).f1
    0.5
    """
    if len(gold) != len(predicted):
        raise ValueError(
            f"gold and predicted must have one list a sentence; there are {len(gold)} and {len(predicted)}"
        )
    counts: defaultdict[str, Counts] = defaultdict(Counts)
    for gold_spans, predicted_spans in zip(map(set, gold), map(set, predicted), strict=True):
        for spans, one in (
            (gold_spans, Counts(gold=1)),
            (predicted_spans, Counts(predicted=1)),
            (gold_spans & predicted_spans, Counts(correct=1)),
        ):
            for span in spans:
                counts[span.label] += one
    return Scores(len(gold), dict(sorted(counts.items())))


def _ratio(part: float, whole: int) -> float | None:
    return part / whole if whole else None
