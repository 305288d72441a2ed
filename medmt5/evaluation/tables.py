"""Tables of F1 by language and label, runs side by side: the rows, and the form for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table

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
    """

    group: str
    label: str
    gold: tuple[int, ...]
    f1: tuple[float | None, ...]

    @property
    def gold_text(self) -> str:
        return " / ".join(f"{count:,}" for count in self.gold)


def f1_rows(results: Sequence[Mapping[str, Any]], by: str) -> list[Row]:
    """Returns the rows of a table with a column for each of the `results` (contents of scores.json).

    Args:
      by: "languages" or "tasks": what makes a group. Behind the groups come rows of all of them together.
    """
    runs = [{name: Scores.from_json(scores) for name, scores in result.get(by, {}).items()} for result in results]
    for groups in runs:
        groups[ALL] = sum(groups.values(), Scores())
    names = sorted({name for groups in runs for name in groups} - {ALL})
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
                )
            )
    return rows


def f1_table(scores_by_run: Mapping[str, Mapping[str, Any]]) -> Table:
    """Returns a table for a terminal: rows are language and label with the number of gold spans, columns the runs.

    Args:
      scores_by_run: name of a run -> the content of its scores.json.
    """
    table = Table("language", "label", title="Entity micro-F1")
    for name in ("gold", *scores_by_run):
        table.add_column(name, justify="right")
    shown = None
    for row in f1_rows(list(scores_by_run.values()), "languages"):
        if shown not in (None, row.group):
            table.add_section()
        values = (UNDEFINED if value is None else f"{value:.3f}" for value in row.f1)
        table.add_row("" if row.group == shown else row.group, row.label, row.gold_text, *values)
        shown = row.group
    return table
