"""Reads and writes brat standoff: a text file, and beside it an .ann file with spans in character offsets.

Only text-bound annotations (`T1<TAB>Disease 0 6<TAB>asthma`) are read; relations, events, attributes and notes are not.
A span in several pieces ("breast and ovarian cancer" for "breast … cancer") becomes the span that covers them all, and
is counted: tagged text knows contiguous spans only, and a dropped mention would teach a model that it is none.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from itertools import zip_longest
from pathlib import Path

from medmt5.annotation.archives import read_members
from medmt5.annotation.documents import document_id, split_document
from medmt5.annotation.example import LabelledExample
from medmt5.annotation.formats.lines import decode, is_empty, split_lines
from medmt5.annotation.labels import LabelMap
from medmt5.annotation.mentions import Mentions
from medmt5.annotation.repairs import Repairs
from medmt5.annotation.spans import Span
from medmt5.errors import InputError

MENTION = re.compile(r"T\S+\t(?P<label>\S+) (?P<pieces>\d{1,9} \d{1,9}(?:;\d{1,9} \d{1,9})*)(?:\t(?P<text>.*))?")
# Relations, events, attributes, modifications, normalisations, equivalences, notes.
OTHER = ("R", "E", "A", "M", "N", "*", "#")


def read_brat(
    path: str | os.PathLike, lang: str, label_map: LabelMap | None = None, repairs: Repairs | None = None
) -> Iterator[LabelledExample]:
    """Yields the sentences of all documents of a folder, by name, as examples `<document>-<sentence>`.

    Args:
      path: a folder with folders below it, or an archive, or a folder inside one (`train-set.zip/train/subtrack1`).
      label_map: type in the files -> our label, None to leave its spans out; without a map the files must use our
        labels.
      repairs: counts what was repaired or dropped: offsets that do not fit the text, spans in pieces, spans twice.

    Raises:
      InputError: no documents, a text without .ann or the reverse, a line that is not standoff, an unknown type.
    """
    path, repairs = Path(path), repairs if repairs is not None else Repairs()
    files: dict[str, dict[str, list[bytes]]] = {".txt": {}, ".ann": {}}
    for name, data in read_members(path, (".txt", ".ann")):
        files[Path(name).suffix].setdefault(document_id(name), []).append(data)
    texts, annotations = files[".txt"], files[".ann"]
    if lonely := sorted(texts.keys() ^ annotations.keys()):
        missing = ".txt" if lonely[0] in annotations else ".ann"
        raise InputError(
            f"a document must have .txt and .ann, which may be empty; {lonely[0]} in {path} has no {missing}"
        )
    if not texts:
        raise InputError(f"no brat documents (.txt and .ann) in {path}; check the path")
    for id in texts:
        ann = path / f"{id}.ann"
        # An archive can hold a file twice; a copy of one of the two goes with the other's only file.
        for copy, (data, lines) in enumerate(zip_longest(texts[id], annotations[id], fillvalue=b"")):
            # Offsets count every character of the file, line ends and byte order mark too.
            is_empty(data, path / f"{id}.txt", repairs)
            mentions = Mentions(decode(data, path / f"{id}.txt", repairs), label_map, repairs, ann)
            _read_ann(lines, ann, mentions, repairs)
            if copy:
                mentions.drop(None)
            else:
                yield from split_document(id, lang, mentions.text, mentions.spans, repairs, ann)


def _read_ann(data: bytes, path: Path, mentions: Mentions, repairs: Repairs) -> None:
    for number, line in split_lines(data, path, repairs):
        if not line.strip() or line.startswith(OTHER):
            continue
        match = MENTION.fullmatch(line)
        if not match:
            raise InputError(
                f"{path}:{number}: a line must be `T<number>`, tab, `<label> <start> <end>`, tab, text, "
                f"or begin with one of {' '.join(OTHER)}"
            )
        pieces = [tuple(map(int, piece.split())) for piece in match["pieces"].split(";")]
        mentions.add(tuple((start, end) for start, end in pieces), match["label"], match["text"], number)


def write_brat(text: str, spans: Iterable[Span], first_number: int = 1, offset: int = 0) -> str:
    r"""Returns the lines of an .ann file for character spans; as brat wants, no piece of a span crosses a line end.

    >>> write_brat("No asthma.", [Span(3, 9, "Disease")])
    'T1\tDisease 3 9\tasthma\n'

    Args:
      first_number, offset: where the text stands in its file: the number of its first span, the characters before it.
    """
    lines = []
    for number, (start, end, label) in enumerate(spans, start=first_number):
        pieces = list(re.finditer(r"[^\r\n]+", text[start:end]))
        offsets = ";".join(f"{offset + start + piece.start()} {offset + start + piece.end()}" for piece in pieces)
        lines.append(f"T{number}\t{label} {offsets}\t{' '.join(piece[0] for piece in pieces)}\n")
    return "".join(lines)
