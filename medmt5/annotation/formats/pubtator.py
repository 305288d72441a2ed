"""Reads PubTator files (NCBI-disease, BC5CDR): documents of title, abstract and mentions, blank lines between them.

Offsets count in title + one space + abstract. Relations and concept ids are not read.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from medmt5.annotation.documents import split_document
from medmt5.annotation.example import LabelledExample
from medmt5.annotation.formats.lines import read_lines
from medmt5.annotation.labels import LabelMap
from medmt5.annotation.mentions import Mentions
from medmt5.annotation.repairs import Repairs
from medmt5.errors import InputError

PASSAGE = re.compile(r"(?P<id>[^|\t]+)\|(?P<kind>[ta])\|(?P<text>.*)")
RELATION = re.compile(r"[^\t]+\t[A-Za-z]\w*\t.*")
MENTION = re.compile(
    r"(?P<id>[^\t]+)\t(?P<start>\d{1,9})\t(?P<end>\d{1,9})\t(?P<text>[^\t]*)\t(?P<label>[^\t]+)(?:\t.*)?"
)


def read_pubtator(
    path: str | os.PathLike, lang: str, label_map: LabelMap | None = None, repairs: Repairs | None = None
) -> Iterator[LabelledExample]:
    """Yields the sentences of a file as examples `<document>-<sentence>`; of documents with one id the first is kept.

    Args:
      path: a file, or one inside an archive (`CDR_Data.zip/CDR_TrainingSet.PubTator.txt`).
      label_map: type in the file -> our label, None to leave its spans out; without a map the file must use our labels.
      repairs: counts what was repaired or dropped: offsets that do not fit the text, documents and spans twice.

    Raises:
      InputError: a line that is neither passage, mention nor relation, or belongs to another document; an unknown type.
    """
    path, repairs = Path(path), repairs if repairs is not None else Repairs()
    seen: set[str] = set()
    for lines in _documents(path, repairs):
        first, head = lines[0]
        if not (match := PASSAGE.fullmatch(head)):
            raise InputError(f"{path}:{first}: a document must begin with `<id>|t|<title>`")
        mentions = _read_document(match["id"], lines, path, label_map, repairs)
        if match["id"] in seen:
            mentions.drop(first)
            continue
        seen.add(match["id"])
        yield from split_document(match["id"], lang, mentions.text, mentions.spans, repairs, path)


def _documents(path: Path, repairs: Repairs) -> Iterator[list[tuple[int, str]]]:
    lines: list[tuple[int, str]] = []
    for number, line in read_lines(path, repairs):
        if line.strip():
            lines.append((number, line))
        elif lines:
            yield lines
            lines = []
    if lines:
        yield lines


def _read_document(
    id: str, lines: list[tuple[int, str]], path: Path, label_map: LabelMap | None, repairs: Repairs
) -> Mentions:
    passages: list[str] = []
    found: list[tuple[int, re.Match[str]]] = []
    for number, line in lines:
        where = f"{path}:{number}"
        mention = MENTION.fullmatch(line)
        passage = PASSAGE.fullmatch(line)
        owner = mention or passage
        if owner and owner["id"] != id:
            raise InputError(
                f"{where}: a line of document {owner['id']} inside document {id}; put a blank line between documents"
            )
        if mention:
            found.append((number, mention))
        elif passage:
            passages.append(passage["text"])
        elif not RELATION.fullmatch(line):
            raise InputError(
                f"{where}: a line must be `<id>|t|<title>`, `<id>|a|<abstract>`, or id, start, end, text and type "
                "divided by tabs"
            )
    mentions = Mentions(" ".join(passages), label_map, repairs, path)
    for number, mention in found:
        mentions.add(((int(mention["start"]), int(mention["end"])),), mention["label"], mention["text"], number)
    return mentions
