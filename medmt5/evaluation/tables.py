"""Tables of F1 by language and label, runs side by side: the rows, and the form for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from medmt5.evaluation.partial_scores import WAYS
from medmt5.evaluation.span_scores import Counts, Scores

ALL = "all"
UNDEFINED = "–"
"""Shown for an F1 that does not exist."""


@dataclass(frozen=True)
class Row:
    """F1 of one label, or of all labels together, in one group of sentences.

    Attributes:
      group: a language or a task, or "all".
      label: a label, or "all".
      gold: numbers of gold spans; more than one if runs were scored on different sentences.
      f1: of each run in order; None where a run has no score, or F1 is undefined.
      intervals: of each F1; None where there is none.
    """

    group: str
    label: str
    gold: tuple[int, ...]
    f1: tuple[float | None, ...]
    intervals: tuple[tuple[float, float] | None, ...]

    @property
    def gold_text(self) -> str:
        return " / ".join(f"{count:,}" for count in self.gold)


def f1_rows(results: Sequence[Mapping[str, Any]], by: str) -> list[Row]:
    """Returns the rows of a table with a column for each of the `results` (contents of scores.json).

    Args:
      by: "languages", "tasks" or "lengths": what makes a group. Behind the groups come rows of all of them together.
    """
    runs = [{name: Scores.from_json(scores) for name, scores in result.get(by, {}).items()} for result in results]
    names = sorted({name for groups in runs for name in groups})
    for groups in runs:
        groups[ALL] = sum(groups.values(), Scores())
    rows = []
    for group in [*names, ALL] if len(names) > 1 else names:
        scores = [groups.get(group) for groups in runs]
        labels = sorted({label for one in scores if one for label in one.labels})
        for label in [ALL, *labels] if len(labels) != 1 else labels:
            counts = [one and (one.total if label == ALL else one.labels.get(label, Counts())) for one in scores]
            rows.append(
                Row(
                    group,
                    label,
                    tuple(sorted({count.gold for count in counts if count})),
                    tuple(count.to_json()["f1"] if count else None for count in counts),
                    tuple(_interval(result, by, group, label) for result in results),
                )
            )
    return rows


def f1_table(scores_by_run: Mapping[str, Mapping[str, Any]]) -> Table:
    """Returns a table for a terminal: rows are language and label with the number of gold spans, columns the runs.

    Args:
      scores_by_run: name of a run -> the content of its scores.json.
    """
    table = Table("language", "label", title="Entity micro-F1 [95 % interval]")
    for name in ("gold", *scores_by_run):
        table.add_column(name, justify="right")
    shown = None
    for row in f1_rows(list(scores_by_run.values()), "languages"):
        if shown not in (None, row.group):
            table.add_section()
        values = (format_f1(f1, interval) for f1, interval in zip(row.f1, row.intervals, strict=True))
        table.add_row("" if row.group == shown else row.group, row.label, row.gold_text, *values)
        shown = row.group
    return table


def ways_table(scores: Mapping[str, Any]) -> Table:
    """Returns a table for a terminal: a row a task, its F1 by each way of counting.

    Args:
      scores: the content of a scores.json.
    """
    table = Table("task", title="F1 by way of counting (published: seqeval on parsed text)")
    for way in (*WAYS, "published"):
        table.add_column(way, justify="right")
    for task, one in scores["tasks"].items():
        f1 = [*(one["ways"][way]["f1"] for way in WAYS), one["parsed_text"]["micro_f1"]]
        table.add_row(task, *map(format_f1, f1))
    if len(scores["tasks"]) > 1:
        table.add_section()
        table.add_row("mean of tasks", *(format_f1(scores["mean"][way]) for way in (*WAYS, "published")))
    return table


def format_f1(f1: float | None, interval: Sequence[float] | None = None) -> str:
    """Returns what a cell shows.

    >>> format_f1(0.5, (0.25, 0.75)), format_f1(None)
    ('0.500 [0.250, 0.750]', '–')
    """
    text = UNDEFINED if f1 is None else f"{f1:.3f}"
    return f"{text} [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else text


def _interval(result: Mapping[str, Any], by: str, group: str, label: str) -> tuple[float, float] | None:
    scores = result.get(ALL) if group == ALL else result.get(by, {}).get(group)
    one = scores if scores is None or label == ALL else scores["labels"].get(label)
    interval = one and one.get("f1_interval")
    return tuple(interval) if interval else None
