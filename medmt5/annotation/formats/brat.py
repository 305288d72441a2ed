"""Reads and writes brat standoff: a text file, and beside it an .ann file with spans in character offsets.

Only text-bound annotations (`T1<TAB>Disease 0 6<TAB>asthma`) are read; relations, events, attributes and notes are not.
A span in several pieces ("breast and ovarian cancer" for "breast … cancer") becomes the span that covers them all, and
is counted: tagged text knows contiguous spans only, and a dropped mention would teach a model that it is none.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path

from medmt5.annotation.documents import split_document
from medmt5.annotation.example import LabelledExample
from medmt5.annotation.formats.lines import decode, read_lines
from medmt5.annotation.labels import LabelMap, map_label
from medmt5.annotation.repairs import Repairs
from medmt5.annotation.spans import Span
from medmt5.errors import InputError

MENTION = re.compile(r"T\S+\t(?P<label>\S+) (?P<pieces>\d+ \d+(?:;\d+ \d+)*)(?:\t(?P<text>.*))?")
# Relations, events, attributes, modifications, normalisations, equivalences, notes.
OTHER = ("R", "E", "A", "M", "N", "*", "#")


def read_brat(
    directory: str | os.PathLike, lang: str, label_map: LabelMap | None = None, repairs: Repairs | None = None
) -> Iterator[LabelledExample]:
    """Yields the sentences of all documents of a directory, by name, as examples `<document>-<sentence>`.

    Args:
      label_map: type in the files -> our label, None to leave its spans out; without a map the files must use our
        labels.
      repairs: counts what was repaired.

    Raises:
      InputError: no documents, a text without .ann or the reverse, a line that is not standoff, offsets outside the
        text, an unknown type.
    """
    directory, repairs = Path(directory), repairs if repairs is not None else Repairs()
    texts = sorted(directory.glob("*.txt"))
    annotations = {path.with_suffix(".txt") for path in directory.glob("*.ann")}
    if lonely := sorted(annotations.symmetric_difference(texts)):
        missing = ".txt" if lonely[0] in annotations else ".ann"
        raise InputError(
            f"a document must have .txt and .ann, which may be empty; {lonely[0].stem} in {directory} has no {missing}"
        )
    if not texts:
        raise InputError(f"no brat documents (.txt and .ann) in {directory}; check the path")
    for path in texts:
        # Read as bytes: offsets count every character of the file, line ends and byte order mark too.
        text = decode(path.read_bytes(), path, repairs)
        ann = path.with_suffix(".ann")
        yield from split_document(path.stem, lang, text, _read_ann(ann, text, label_map, repairs), repairs, ann)


def _read_ann(path: Path, text: str, label_map: LabelMap | None, repairs: Repairs) -> dict[Span, int]:
    spans: dict[Span, int] = {}
    for number, line in read_lines(path, repairs):
        where = f"{path}:{number}"
        if not line.strip() or line.startswith(OTHER):
            continue
        match = MENTION.fullmatch(line)
        if not match:
            raise InputError(
                f"{where}: a line must be `T<number>`, tab, `<label> <start> <end>`, tab, text, "
                f"or begin with one of {' '.join(OTHER)}"
            )
        pieces = [tuple(map(int, piece.split())) for piece in match["pieces"].split(";")]
        start, end = min(pieces)[0], max(piece[1] for piece in pieces)
        if not all(0 <= first < last <= len(text) for first, last in pieces):
            raise InputError(
                f"{where}: offsets must rise within the {len(text)} characters of the text, not {match['pieces']}"
            )
        label = map_label(match["label"], label_map, where)
        if label is None:
            continue
        # brat itself divides a span at line ends; pieces with only white space between them are one span.
        if any(text[last:first].strip() for (_, last), (first, _) in pairwise(pieces)):
            repairs.add("span in pieces widened to cover them", path, number)
        if match["text"] is not None and match["text"].split() != " ".join(text[s:e] for s, e in pieces).split():
            repairs.add("text differs from the annotation's copy", path, number)
        if Span(start, end, label) in spans:
            repairs.add("repeated span dropped", path, number)
        spans.setdefault(Span(start, end, label), number)
    return spans


def write_brat(text: str, spans: Iterable[Span]) -> str:
    r"""Returns the content of an .ann file for character spans; as brat wants, no piece of a span crosses a line end.

    >>> write_brat("No asthma.", [Span(3, 9, "Disease")])
    'T1\tDisease 3 9\tasthma\n'
    """
    lines = []
    for number, (start, end, label) in enumerate(spans, start=1):
        pieces = list(re.finditer(r"[^\r\n]+", text[start:end]))
        offsets = ";".join(f"{start + piece.start()} {start + piece.end()}" for piece in pieces)
        lines.append(f"T{number}\t{label} {offsets}\t{' '.join(piece[0] for piece in pieces)}\n")
    return "".join(lines)
