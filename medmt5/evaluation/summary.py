"""What scores.json holds: all scores of an evaluation, by task, language and length of sentence, with intervals.

Offsets are words here; characters would give the same numbers, for only order, overlap and equality of spans count.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from medmt5.annotation.tagged_text import render
from medmt5.evaluation import resampling
from medmt5.evaluation.comparison import KINDS, Kind, compare_spans, count_kinds
from medmt5.evaluation.parsed_text import micro_macro_f1, score_text
from medmt5.evaluation.partial_scores import WAYS, score_ways
from medmt5.evaluation.results import Prediction
from medmt5.evaluation.span_scores import Counts, Scores, score_spans

LENGTHS = {"1-10": 10, "11-20": 20, "21-30": 30, "31-50": 50, "over 50": None}
"""Name of a group of sentences -> the most words that its sentences have."""


@dataclass(frozen=True)
class ScoredSentence:
    """A prediction and all that is counted of it. `labels` are those the task asks for."""

    task: str
    prediction: Prediction
    labels: tuple[str, ...]

    @cached_property
    def strict(self) -> Scores:
        return score_spans([self.prediction.gold], [self.prediction.predicted])

    @cached_property
    def ways(self) -> dict[str, Counts]:
        return score_ways(self.prediction.gold, self.prediction.predicted)

    @cached_property
    def kinds(self) -> dict[Kind, Counts]:
        return count_kinds(compare_spans(self.prediction.gold, self.prediction.predicted))

    @cached_property
    def parsed(self) -> Scores:
        words, predicted = self.prediction.words, self.prediction.predicted
        return score_text(words, self.prediction.gold, render(words, predicted), self.labels)

    @property
    def document(self) -> tuple[str, str]:
        return self.task, self.prediction.document

    @property
    def length(self) -> str:
        num_words = len(self.prediction.words)
        return next(name for name, most in LENGTHS.items() if most is None or num_words <= most)


def summarize(tasks: Mapping[str, tuple[Sequence[Prediction], Sequence[str]]]) -> dict[str, Any]:
    """Returns "all", "tasks", "mean", "languages", "lengths" and "bootstrap" of scores.json (docs/architecture.md).

    Args:
      tasks: name -> its predictions, and the labels it asks for.
    """
    sentences = [
        ScoredSentence(task, prediction, tuple(labels))
        for task, (predictions, labels) in tasks.items()
        for prediction in predictions
    ]

    def grouped(key: Callable[[ScoredSentence], str], names: Iterable[str]) -> dict[str, Any]:
        groups: defaultdict[str, list[ScoredSentence]] = defaultdict(list)
        for sentence in sentences:
            groups[key(sentence)].append(sentence)
        return {name: _summarize(groups[name]) for name in names if name in groups}

    by_task = grouped(lambda s: s.task, tasks)
    return {
        "all": _summarize(sentences),
        "tasks": by_task,
        "mean": _mean(by_task.values()),
        "languages": grouped(lambda s: s.prediction.lang, sorted({s.prediction.lang for s in sentences})),
        "lengths": grouped(lambda s: s.length, LENGTHS),
        "bootstrap": {
            "method": "percentile",
            "unit": "document",
            "resamples": resampling.RESAMPLES,
            "confidence": resampling.CONFIDENCE,
            "seed": resampling.SEED,
            "sentences_as_documents": [
                task for task, one in by_task.items() if one["documents"] == one["sentences"] > 1
            ],
        },
    }


def count_documents(sentences: Iterable[tuple[Any, Scores]]) -> dict[Any, Scores]:
    """Returns document -> its scores, of (document, scores of a sentence), in order of first appearance."""
    documents: dict[Any, Scores] = {}
    for document, scores in sentences:
        documents[document] = documents[document] + scores if document in documents else scores
    return documents


def _mean(tasks: Iterable[Mapping[str, Any]]) -> dict[str, float | None]:
    """Returns the mean over tasks of F1 by each way of counting and as published: every task weighs the same."""
    f1 = [
        {way: one["ways"][way]["f1"] for way in WAYS} | {"published": one["parsed_text"]["micro_f1"]} for one in tasks
    ]
    known = {way: [one[way] for one in f1 if one[way] is not None] for way in (*WAYS, "published")}
    return {way: sum(values) / len(values) if values else None for way, values in known.items()}


def _summarize(sentences: Sequence[ScoredSentence]) -> dict[str, Any]:
    """Returns S of docs/architecture.md."""
    documents = list(count_documents((s.document, s.strict) for s in sentences).values())
    strict = sum(documents, Scores())
    counts = np.zeros((len(documents), 1 + len(strict.labels), 3), np.int64)  # all labels, then each
    for row, scores in zip(counts, documents, strict=True):
        for cell, one in zip(row, [scores.total, *map(scores.labels.get, strict.labels)], strict=True):
            if one:
                cell[:] = one.gold, one.predicted, one.correct
    whole, *by_label = resampling.bootstrap_f1(counts)
    result = strict.to_json()
    for label, interval in zip(result["labels"].values(), by_label, strict=True):
        label["f1_interval"] = interval
    kinds = {kind: sum((s.kinds[kind] for s in sentences), Counts()) for kind in KINDS}
    return result | {
        "f1_interval": whole,
        "documents": len(documents),
        "ways": {way: sum((s.ways[way] for s in sentences), Counts()).to_json() for way in WAYS},
        "errors": {kind: {"gold": counts.gold, "predicted": counts.predicted} for kind, counts in kinds.items()},
        "parsed_text": micro_macro_f1(sum((s.parsed for s in sentences), Scores())),
    }
