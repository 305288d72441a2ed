"""Finds where a mention stands in a text when the offsets given with it are not those of the text.

Offsets count characters (Unicode code points) here. Tools in Java and JavaScript count UTF-16 units, some count UTF-8
bytes, and line ends that changed on the way shift the rest. An annotation that carries a copy of its text shows which
it was: the copy decides, and a mention that is nowhere near is dropped rather than put on other words.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from functools import cached_property
from itertools import accumulate
from typing import NamedTuple
from unicodedata import normalize

NEARBY_CHARS = 100
"""A shift by as many line ends or stray bytes is believed; farther away the same words are another mention."""

Pieces = tuple[tuple[int, int], ...]
"""(start, end) of each piece of a mention; most have one."""


class Placed(NamedTuple):
    """Where a mention stands, None if nowhere, and what had to be done, None if nothing."""

    pieces: Pieces | None
    repair: str | None


class Offsets:
    """The offsets of one text.

    >>> Offsets("😀 asthma").place(((3, 9),), "asthma")  # as Java counts
    Placed(pieces=((2, 8),), repair='offsets in UTF-16 units converted')
    """

    def __init__(self, text: str):
        self.text = text

    @cached_property
    def _utf16(self) -> list[int]:
        return [0, *accumulate(1 + (character > "\uffff") for character in self.text)]

    @cached_property
    def _utf8(self) -> list[int]:
        return [0, *accumulate(len(character.encode()) for character in self.text)]

    def from_utf16(self, start: int, end: int) -> Placed:
        """Returns the place of a span counted in UTF-16 units, as UIMA does."""
        pieces = self._convert(((start, end),), self._utf16)
        return Placed(pieces, None) if pieces else Placed(None, "span with wrong offsets dropped")

    def place(self, pieces: Pieces, copy: str | None) -> Placed:
        """Returns the place of a mention.

        Args:
          pieces: as given, in characters or another unit.
          copy: the annotation's copy of its text, None or blank if it has none; white space does not matter.
        """
        if not copy or not copy.strip():
            return Placed(pieces, None) if self._fits(pieces) else Placed(None, "span with wrong offsets dropped")
        if self._holds(pieces, copy):
            return Placed(pieces, None)
        if not self.text.isascii():
            for unit, starts in (("UTF-16 units", self._utf16), ("bytes", self._utf8)):
                converted = self._convert(pieces, starts)
                if converted and self._holds(converted, copy):
                    return Placed(converted, f"offsets in {unit} converted")
        if self._fits(pieces) and _fold(self._words(pieces, copy)) == _fold(copy.split()):
            return Placed(pieces, "text differs from the annotation's copy")
        if moved := self._find(min(pieces)[0], copy):
            return Placed((moved,), "span moved to its text")
        kind = "span whose text is not there dropped" if self._fits(pieces) else "span with wrong offsets dropped"
        return Placed(None, kind)

    def _fits(self, pieces: Pieces) -> bool:
        return all(0 <= start < end <= len(self.text) for start, end in pieces)

    def _holds(self, pieces: Pieces, copy: str) -> bool:
        return self._fits(pieces) and self._words(pieces, copy) == copy.split()

    def _words(self, pieces: Pieces, copy: str) -> list[str] | None:
        """Returns the words of the pieces, None where they are so long that nobody copied them: time stays linear."""
        if sum(end - start for start, end in pieces) > 2 * len(copy) + NEARBY_CHARS:
            return None
        return " ".join(self.text[start:end] for start, end in pieces).split()

    def _convert(self, pieces: Pieces, starts: Sequence[int]) -> Pieces | None:
        converted = tuple((bisect_left(starts, start), bisect_left(starts, end)) for start, end in pieces)
        exact = all(
            index < len(starts) and starts[index] == offset
            for piece, given in zip(converted, pieces, strict=True)
            for index, offset in zip(piece, given, strict=True)
        )
        return converted if exact and self._fits(converted) else None

    def _find(self, start: int, copy: str) -> tuple[int, int] | None:
        """Returns the whole words nearest to `start` that read as the copy."""
        words = copy.split()
        before = r"(?<!\w)" if words[0][0].isalnum() else ""
        after = r"(?!\w)" if words[-1][-1].isalnum() else ""
        pattern = re.compile(before + r"\s+".join(map(re.escape, words)) + after)
        first, stop = max(0, start - NEARBY_CHARS), start + NEARBY_CHARS + 2 * len(copy) + 1
        found = [match.span() for match in pattern.finditer(self.text, first, stop)]
        # What ends at `stop` may be cut out of a longer word.
        near = [
            place for place in found if place[0] <= start + NEARBY_CHARS and (place[1] < stop or stop >= len(self.text))
        ]
        return min(near, key=lambda place: abs(place[0] - start), default=None)


def _fold(words: list[str] | None) -> str | None:
    """Returns words without what copies lose: case, kind of accent and quote, white space."""
    return None if words is None else normalize("NFKC", "".join(words)).casefold()
