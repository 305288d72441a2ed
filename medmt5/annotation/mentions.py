"""Collects the mentions of one document, as the readers of document formats find them, into character spans."""

from __future__ import annotations

import os
import re
from itertools import pairwise

from medmt5.annotation.labels import LabelMap, map_label
from medmt5.annotation.offsets import Offsets, Pieces
from medmt5.annotation.repairs import Repairs
from medmt5.annotation.spans import Span

VISIBLE = re.compile(r"\S")


class Mentions:
    """Every mention whose label is not left out becomes a span or is counted as dropped, once.

    Attributes:
      text: of the document.
      spans: character spans in `text` -> line in the file.
    """

    def __init__(self, text: str, label_map: LabelMap | None, repairs: Repairs, file: str | os.PathLike):
        self.text, self.spans = text, dict[Span, int]()
        self._offsets, self._label_map, self._repairs, self._file = Offsets(text), label_map, repairs, file

    def add(self, pieces: Pieces, source_label: str, copy: str | None, line: int) -> None:
        """Adds the mention of `pieces`, placed by its copy as `Offsets.place` says.

        Several pieces become the one span that covers them, counted: tagged text knows contiguous spans only, and a
        dropped mention would teach a model that it is none.
        """
        label = map_label(source_label, self._label_map, f"{os.fspath(self._file)}:{line}")
        if label is None:
            return
        placed = self._offsets.place(pieces, copy)
        if placed.repair:
            self._repairs.add(placed.repair, self._file, line)
        if placed.pieces is None:
            return
        # brat itself divides a span at line ends; pieces with only white space between them are one span.
        if any(VISIBLE.search(self.text, last, first) for (_, last), (first, _) in pairwise(placed.pieces)):
            self._repairs.add("span in pieces widened to cover them", self._file, line)
        span = Span(min(placed.pieces)[0], max(end for _, end in placed.pieces), label)
        if span in self.spans:
            self._repairs.add("repeated span dropped", self._file, line)
        self.spans.setdefault(span, line)

    def drop(self, line: int | None) -> None:
        """Counts the document and each of its spans as dropped: one with this id was there before."""
        self._repairs.add("document with a repeated id dropped", self._file, line)
        for span_line in self.spans.values():
            self._repairs.add("span of a repeated document dropped", self._file, span_line)
