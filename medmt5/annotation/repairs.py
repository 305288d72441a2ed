"""Counts what readers had to repair or drop, by kind, with the first places of each: file and line, never text."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from typing import Any

from rich.table import Table

NUM_PLACES = 3
"""Places remembered of each kind: enough to open the file and look."""


class Repairs:
    """A tally of repairs.

    >>> repairs = Repairs()
    >>> repairs.add("invalid UTF-8 replaced", "train.conll", 12)
    >>> repairs.to_json()
    {'invalid UTF-8 replaced': {'count': 1, 'first': ['train.conll:12']}}

    Attributes:
      counts: kind -> how often.
      places: kind -> `file:line` of the first few.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.places: defaultdict[str, list[str]] = defaultdict(list)

    def add(self, kind: str, file: str | os.PathLike, line: int | None = None) -> None:
        """Counts one repair of a kind; `line` counts from 1, None where the file has no lines."""
        self.counts[kind] += 1
        if len(self.places[kind]) < NUM_PLACES:
            self.places[kind].append(os.fspath(file) if line is None else f"{os.fspath(file)}:{line}")

    def to_json(self) -> dict[str, dict[str, Any]]:
        """Returns kind -> {"count", "first": [`file:line`]}, most frequent first."""
        return {kind: {"count": count, "first": self.places[kind]} for kind, count in self.counts.most_common()}

    def __rich__(self) -> Table:
        table = Table("repair", "count", "first places", title="Repairs while reading")
        table.columns[1].justify = "right"
        for kind, count in self.counts.most_common():
            table.add_row(kind, f"{count:,}", "\n".join(self.places[kind]))
        return table
