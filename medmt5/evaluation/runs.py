"""What MODEL_DIRs tell of their runs: each by itself, one against another, several seeds together."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from medmt5.errors import InputError
from medmt5.evaluation import results, tables
from medmt5.evaluation.curves import DASHES, NUM_COLORS
from medmt5.evaluation.resampling import Difference, compare_f1, mean_and_deviation
from medmt5.evaluation.results import CHECKPOINT, Prediction
from medmt5.evaluation.span_scores import score_spans
from medmt5.evaluation.summary import count_documents

# gin puts a long value on the next line, behind a backslash.
MIXTURE = re.compile(r"""^MIXTURE_OR_TASK_NAME = (?:\\\s+)?(['"])(.+)\1""", re.MULTILINE)


@dataclass(frozen=True)
class Run:
    """What a MODEL_DIR tells.

    Attributes:
      number: among all runs, from 0.
      name: as shown.
      path: the MODEL_DIR, or one checkpoint in it whose evaluation is wanted.
      model: runs of one model are seeds of one experiment.
    """

    number: int
    name: str
    path: Path
    model: str

    @property
    def model_dir(self) -> Path:
        return self.path.parent if CHECKPOINT.fullmatch(self.path.name) else self.path

    @cached_property
    def metrics(self) -> list[dict[str, float]]:
        checkpoint = CHECKPOINT.fullmatch(self.path.name)
        last_step = int(checkpoint[1]) if checkpoint else math.inf
        return [line for line in results.read_metrics(self.model_dir) if line["step"] <= last_step]

    @cached_property
    def config(self) -> str | None:
        file = self.model_dir / "config.gin"
        return file.read_text(encoding="utf-8") if file.is_file() else None

    @property
    def mixture(self) -> str | None:
        match = MIXTURE.search(self.config or "")
        return match[2] if match else None

    @cached_property
    def scores(self) -> dict[str, Any] | None:
        folder = results.find_evaluation(self.path)
        scores = results.read_scores(folder / "scores.json") if folder else None
        if scores and "all" not in scores:
            raise InputError(f"{folder} is of an older version, without intervals; run medmt5 evaluate again")
        return scores

    @property
    def total(self) -> tables.Row | None:
        """All languages and labels together."""
        rows = tables.f1_rows([self.scores], "languages") if self.scores else []
        return next((row for row in reversed(rows) if row.label == tables.ALL or len(rows) == 1), None)

    @property
    def last_loss(self) -> float | None:
        return next((line["loss"] for line in reversed(self.metrics) if "loss" in line), None)

    @property
    def last_step(self) -> int | None:
        return int(self.metrics[-1]["step"]) if self.metrics else None

    @property
    def dash(self) -> str:
        return DASHES[self.number % len(DASHES)]

    @property
    def color(self) -> int:
        return self.number % NUM_COLORS

    @cached_property
    def predictions(self) -> dict[tuple[str, str], Prediction]:
        """(task, sentence id) -> prediction of the evaluation that `scores` are of."""
        folder, scores = results.find_evaluation(self.path), self.scores
        if folder is None or scores is None:
            return {}
        files = {task: folder / f"{task}.{scores['split']}.jsonl" for task in scores["tasks"]}
        return {
            (task, prediction.id): prediction
            for task, file in files.items()
            if file.is_file()
            for prediction in results.read_predictions(file)
        }


@dataclass(frozen=True)
class RunDifference:
    """The second run against the first, in one language or in all; None if there is no gold span."""

    second: Run
    language: str
    documents: int
    difference: Difference | None


def compare_runs(first: Run, second: Run) -> list[RunDifference]:
    """Returns the differences a language and, behind them, of all; none unless both labelled the same sentences."""
    if not first.predictions or first.predictions.keys() != second.predictions.keys():
        return []
    pairs = ((prediction, second.predictions[key]) for key, prediction in first.predictions.items())
    if any((one.gold, one.document) != (other.gold, other.document) for one, other in pairs):
        return []
    keys_of: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
    for key, prediction in first.predictions.items():
        keys_of[prediction.lang].append(key)
    groups = dict(sorted(keys_of.items())) | ({tables.ALL: list(first.predictions)} if len(keys_of) > 1 else {})
    differences = []
    for language, keys in groups.items():
        before, after = _document_counts(first, keys), _document_counts(second, keys)
        differences.append(RunDifference(second, language, len(before), compare_f1(before, after)))
    return differences


@dataclass(frozen=True)
class SeedsRow:
    """F1 of each model over its seeds: mean, sample standard deviation and their number; None where there is no F1."""

    group: str
    label: str
    values: tuple[tuple[float, float | None, int] | None, ...]


def seeds_rows(models: Sequence[Sequence[Run]]) -> list[SeedsRow]:
    """Returns rows as `tables.f1_rows`, a language and label each, with a value for each model, given as its runs."""
    runs = [run for model in models for run in model]
    rows = []
    for row in tables.f1_rows([run.scores for run in runs if run.scores], "languages"):
        f1 = iter(row.f1)
        values = []
        for model in models:
            known = [value for value in islice(f1, len(model)) if value is not None]
            values.append((*mean_and_deviation(known), len(known)) if known else None)
        rows.append(SeedsRow(row.group, row.label, tuple(values)))
    return rows


def _document_counts(run: Run, keys: Sequence[tuple[str, str]]) -> np.ndarray:
    """[documents, 3] int64: gold, predicted, correct spans."""
    sentences = (
        ((task, prediction.document), score_spans([prediction.gold], [prediction.predicted]))
        for (task, _), prediction in zip(keys, map(run.predictions.__getitem__, keys), strict=True)
    )
    totals = [scores.total for scores in count_documents(sentences).values()]
    return np.array([(total.gold, total.predicted, total.correct) for total in totals], np.int64)
