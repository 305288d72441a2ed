"""One HTML file about one or more runs: losses, F1 by language and label, examples with their errors, configuration.

The file stands alone: no network, no script; everything that comes from data is escaped by the template. It holds
sentences of the test set, so it is as confidential as they are. What a run does not have yet is said, not left out.
"""

from __future__ import annotations

import math
import random
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from medmt5.annotation.labels import LABELS
from medmt5.annotation.spans import Span
from medmt5.errors import InputError
from medmt5.evaluation import results, tables
from medmt5.evaluation.comparison import Finding, Kind, compare_spans
from medmt5.evaluation.curves import DASHES, NUM_COLORS, draw_losses
from medmt5.evaluation.marked_text import HUES
from medmt5.evaluation.results import CHECKPOINT, Prediction

EXAMPLES_PER_LANGUAGE = 6
CORRECT_PER_LANGUAGE = 2
"""Of the examples of a language, how many to take from sentences without an error: to see what goes well, too."""
LONGEST_EXAMPLE = 60
"""Words; longer sentences are shown only where a language has no others."""
SEED = 0
SIGNS: dict[Kind, str] = {"correct": "✓", "missed": "○", "spurious": "+", "wrong label": "≠", "wrong boundary": "↔"}
# gin puts a long value on the next line, behind a backslash.
MIXTURE = re.compile(r"""^MIXTURE_OR_TASK_NAME = (?:\\\s+)?(['"])(.+)\1""", re.MULTILINE)


@dataclass(frozen=True)
class Run:
    """What a MODEL_DIR tells. `path` is the MODEL_DIR, or one checkpoint in it whose evaluation is wanted."""

    number: int
    name: str
    path: Path

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
        return results.read_scores(folder / "scores.json") if folder else None

    @property
    def f1(self) -> float | None:
        rows = tables.f1_rows([self.scores], "languages") if self.scores else []
        return next((row.f1[0] for row in reversed(rows) if row.label == tables.ALL or len(rows) == 1), None)

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

    def predictions(self) -> dict[tuple[str, str], Prediction]:
        """Returns (task, sentence id) -> prediction of the evaluation."""
        folder = results.find_evaluation(self.path)
        return {
            (file.name.split(".jsonl")[0], prediction.id): prediction
            for file in sorted(folder.glob("*.jsonl") if folder else [])
            for prediction in results.read_predictions(file)
        }


@dataclass(frozen=True)
class Part:
    """A stretch of words of an example; `finding` is None outside spans."""

    text: str
    finding: Finding | None = None
    gold_text: str = ""


@dataclass(frozen=True)
class Example:
    """A sentence with its gold spans and what each run made of it."""

    task: str
    id: str
    gold: list[Part]
    runs: list[tuple[Run, list[Part], bool]]


def write_report(output: Path, runs: Mapping[str, Path], title: str) -> Path:
    """Writes the report and returns its path.

    Args:
      runs: name -> MODEL_DIR, whose newest evaluation is shown, or MODEL_DIR/checkpoint_<step> for that one's.
    """
    loaded = [Run(number, name, Path(path)) for number, (name, path) in enumerate(runs.items())]
    for run in loaded:
        if not run.model_dir.is_dir():
            raise InputError(
                f"run {run.name!r}: no folder {run.model_dir}; give a MODEL_DIR that medmt5 train has written to"
            )
    scored = [run for run in loaded if run.scores]
    environment = Environment(
        loader=PackageLoader("medmt5.evaluation", "."), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    rows = {by: tables.f1_rows([run.scores for run in scored if run.scores], by) for by in ("languages", "tasks")}
    page = environment.get_template("report.html.j2").render(
        title=title,
        runs=loaded,
        scored=scored,
        charts=_charts(loaded),
        rows=rows,
        comparable=all(len(row.gold) == 1 for row in rows["languages"]),
        examples=_choose_examples(scored),
        signs=SIGNS,
        hues={label: HUES[i % len(HUES)] for i, label in enumerate(LABELS)},
        ALL=tables.ALL,
        UNDEFINED=tables.UNDEFINED,
    )
    output = Path(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = output.with_name(output.name + ".part")
    temporary.write_text(page, encoding="utf-8")
    temporary.replace(output)
    return output


def _charts(runs: Sequence[Run]) -> list[tuple[str | None, list[Run], Markup]]:
    """Returns (mixture, its runs, picture): a loss can be compared with another one of the same mixture only."""
    by_mixture: defaultdict[str | None, list[Run]] = defaultdict(list)
    for run in runs:
        if run.last_loss is not None:
            by_mixture[run.mixture].append(run)
    return [
        (
            mixture,
            members,
            Markup(draw_losses({run.number: run.metrics for run in members}, f"Loss by step, chart {i}")),
        )
        for i, (mixture, members) in enumerate(by_mixture.items(), start=1)
    ]


def _choose_examples(runs: Sequence[Run]) -> dict[str, list[Example]]:
    """Returns language -> examples, equally many a language, those with errors first; the same ones at each call."""
    predictions = [run.predictions() for run in runs]
    shared = set.intersection(*map(set, predictions)) if predictions else set()
    by_language: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
    for key in sorted(shared):
        by_language[predictions[0][key].lang].append(key)

    chosen = {}
    for lang, keys in sorted(by_language.items()):
        random.Random(SEED).shuffle(keys)
        keys.sort(key=lambda key: len(predictions[0][key].words) > LONGEST_EXAMPLE)
        wrong = [key for key in keys if any(set(run[key].gold) != set(run[key].predicted) for run in predictions)]
        right = [key for key in keys if predictions[0][key].gold and key not in set(wrong)]
        num_wrong = max(EXAMPLES_PER_LANGUAGE - CORRECT_PER_LANGUAGE, EXAMPLES_PER_LANGUAGE - len(right))
        keys = wrong[:num_wrong] + right[: EXAMPLES_PER_LANGUAGE - min(num_wrong, len(wrong))]
        chosen[lang] = [
            _example(
                *key, [(run, run_predictions[key]) for run, run_predictions in zip(runs, predictions, strict=True)]
            )
            for key in keys
        ]
    return chosen


def _example(task: str, id: str, predictions: Sequence[tuple[Run, Prediction]]) -> Example:
    _, first = predictions[0]
    gold = [Finding(span, "correct", span) for span in first.gold]
    shown = [(run, compare_spans(prediction.gold, prediction.predicted)) for run, prediction in predictions]
    return Example(
        task,
        id,
        _parts(first.words, sorted(gold)),
        [(run, _parts(first.words, found), all(f.kind == "correct" for f in found)) for run, found in shown],
    )


def _parts(words: Sequence[str], findings: Sequence[Finding]) -> list[Part]:
    def text(start: int, end: int) -> str:
        return " ".join(words[start:end])

    parts = []
    position = 0
    for finding in findings:
        span: Span = finding.span
        parts.append(Part(text(position, span.start)))
        gold = finding.gold
        parts.append(Part(text(span.start, span.end), finding, text(gold.start, gold.end) if gold else ""))
        position = span.end
    parts.append(Part(text(position, len(words))))
    return [part for part in parts if part.text]
