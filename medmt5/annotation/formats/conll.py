"""Reads CoNLL files: a word and its tag a line, a blank line between sentences.

The first column is the word, the last its tag, separated by a tab or by spaces. IOB1, IOB2, IOBES and BILOU become
IOB2. Hand-corrected files hold two kinds of damage, which are repaired and counted: several words on one line (the tag
holds for each), and a tag whose word is gone.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from medmt5.annotation.example import LabelledExample
from medmt5.annotation.formats.lines import read_lines
from medmt5.annotation.labels import LabelMap, map_label
from medmt5.annotation.repairs import Repairs
from medmt5.annotation.spans import TAG, Span, spans_to_tags, tags_to_spans
from medmt5.errors import InputError

Row = tuple[int, list[str], str]
"""Line number, words, tag."""


def read_conll(
    path: str | os.PathLike, lang: str, label_map: LabelMap | None = None, repairs: Repairs | None = None
) -> Iterator[LabelledExample]:
    """Yields the sentences of a file as examples `<stem>-1`, `<stem>-2`, …

    Args:
      path: a file, or one inside an archive.
      label_map: label of the file -> ours, None to leave its spans out; without a map the file must use our labels.
      repairs: counts what was repaired or dropped: spans that begin with I-, tags without words, lines of several
        words, broken encoding.

    Raises:
      InputError: a line without a tag, with something else than a tag in its last column or with more or fewer columns
        than the first, for what is missing there cannot be known; a label that is not in the map.
    """
    path, repairs = Path(path), repairs if repairs is not None else Repairs()
    for number, rows in enumerate(_sentences(path, repairs), start=1):
        yield _example(f"{path.stem}-{number}", lang, rows, path, label_map, repairs)


def _sentences(path: Path, repairs: Repairs) -> Iterator[list[Row]]:
    rows: list[Row] = []
    columns = None  # of the first line
    for line, text in read_lines(path, repairs):
        where = f"{path}:{line}"
        text = text.rstrip(" \t")
        fields = text.split("\t") if "\t" in text else [field for field in text.split(" ") if field]
        if not text or fields[0] == "-DOCSTART-":
            if rows:
                yield rows
            rows = []
            continue
        *others, tag = fields
        # Alone on its line, O may be a word as well; after an empty column it is a tag.
        if not any(others) and (others or tag != "O") and TAG.fullmatch(tag):
            repairs.add("tag without a word dropped", path, line)
            continue
        if not others:
            raise InputError(
                f"{where}: a line must hold a word and its tag, but has one column; add the tag (O if none)"
            )
        if not TAG.fullmatch(tag):
            raise InputError(
                f"{where}: the last column must be O, or B, I, E, S, L or U with a dash and a label; correct the tag, "
                "or remove the columns after it (it is not shown, for it may be a patient's text)"
            )
        columns = columns or len(fields)
        if "\t" not in text and columns == 2:
            words = others
        elif len(fields) == columns:
            words = [word for word in fields[0].split(" ") if word]
        else:
            raise InputError(f"{where}: every line must have {columns} columns as the first one, not {len(fields)}")
        if not words:
            repairs.add("tag without a word dropped", path, line)
            continue
        if len(words) > 1:
            repairs.add("line of several words divided", path, line)
        rows.append((line, words, tag))
    if rows:
        yield rows


def _example(
    id: str, lang: str, rows: list[Row], path: Path, label_map: LabelMap | None, repairs: Repairs
) -> LabelledExample:
    starts = [0]  # of each line's words
    for _, words, _ in rows:
        starts.append(starts[-1] + len(words))
    spans = []
    for start, end, source_label in tags_to_spans([tag for *_, tag in rows]):
        line, _, tag = rows[start]
        if tag.startswith("I-"):
            repairs.add("span that begins with I- (IOB1)", path, line)
        label = map_label(source_label, label_map, f"{path}:{line}")
        if label is not None:
            spans.append(Span(starts[start], starts[end], label))
    words = [word for _, words, _ in rows for word in words]
    return LabelledExample.from_words(id, lang, words, spans_to_tags(spans, len(words)))
