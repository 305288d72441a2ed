"""Reads texts with inline tags, `no <dis>hearing loss</dis>` (DIANN): one file a document, one sentence a line.

The names in the label map are the tags; everything else in angle brackets is text, as in "p <.05". Tags are taken by
name, so that they may nest or cross. `&amp;` and other references of XML are characters.
"""

from __future__ import annotations

import html
import os
import re
from collections.abc import Iterator
from pathlib import Path

from medmt5.annotation.archives import read_members
from medmt5.annotation.documents import document_id, split_document
from medmt5.annotation.example import LabelledExample
from medmt5.annotation.formats.lines import decode, is_empty
from medmt5.annotation.labels import LabelMap, known_labels
from medmt5.annotation.mentions import Mentions
from medmt5.annotation.repairs import Repairs
from medmt5.errors import InputError

MARKUP = re.compile(r"<(?P<slash>/?)(?P<tag>[^\W\d]\w*)>|&(?:amp|lt|gt|quot|apos|#[0-9]{1,7}|#x[0-9a-fA-F]{1,6});|\n")
LINE = re.compile(r"\S(?:[^\r\n]*\S)?")


def read_inline_tags(
    path: str | os.PathLike, lang: str, label_map: LabelMap | None = None, repairs: Repairs | None = None
) -> Iterator[LabelledExample]:
    """Yields the sentences of all documents of a folder, by name, as examples `<document>-<sentence>`.

    Args:
      path: a folder, an archive, a folder inside one (`train.zip/Annotated`), or one file.
      label_map: tag -> our label, None for a tag that is taken out of the text without a span; without a map our
        labels are the tags.
      repairs: counts what was repaired or dropped: tags that are never closed or never opened, tags that are not in the
        map and stay text, nested spans, documents twice.

    Raises:
      InputError: no .txt file.
    """
    path, repairs = Path(path), repairs if repairs is not None else Repairs()
    label_map = {label: label for label in known_labels()} if label_map is None else label_map
    seen: set[str] = set()
    name = None
    for name, data in read_members(path, ".txt"):
        file = path if path.name == name else path / name
        if is_empty(data, file, repairs):
            continue
        mentions = _read_document(decode(data, file, repairs).removeprefix("\ufeff"), label_map, repairs, file)
        id = document_id(name)
        if id in seen:
            mentions.drop(None)
            continue
        seen.add(id)
        lines = [match.span() for match in LINE.finditer(mentions.text)]
        yield from split_document(id, lang, mentions.text, mentions.spans, repairs, file, lines)
    if name is None:
        raise InputError(f"no documents (.txt) in {path}; check the path")


def _read_document(source: str, label_map: LabelMap, repairs: Repairs, file: Path) -> Mentions:
    parts: list[str] = []
    length, position, line = 0, 0, 1
    opened: dict[str, list[tuple[int, int]]] = {}  # tag -> (start in the text, line) of those not closed yet
    found: list[tuple[int, int, str, int]] = []
    for match in MARKUP.finditer(source):
        tag, kept = match["tag"], match[0]
        if tag in label_map:
            kept = ""
        elif tag:
            repairs.add("tag that is not in the label map left as text", file, line)
        elif kept != "\n":
            kept = html.unescape(kept)
        parts += [source[position : match.start()], kept]
        length += match.start() - position
        position = match.end()
        if tag in label_map:
            if not match["slash"]:
                opened.setdefault(tag, []).append((length, line))
            elif opened.get(tag):
                start, first_line = opened[tag].pop()
                found.append((start, length, tag, first_line))
            elif label_map[tag] is not None:
                repairs.add("closing tag without an opening one left out", file, line)
        length += len(kept)
        line += match[0] == "\n"
    for tag, places in opened.items():
        for _, first_line in places:
            if label_map[tag] is not None:
                repairs.add("span that is never closed dropped", file, first_line)
    mentions = Mentions("".join([*parts, source[position:]]), label_map, repairs, file)
    for start, end, tag, first_line in found:
        mentions.add(((start, end),), tag, None, first_line)
    return mentions
