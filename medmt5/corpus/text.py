"""Plain text, one document a file, and JSON Lines, one document a line.

A text file is one document because clinical notes are kept so, and because their empty lines separate paragraphs, not
documents; many documents in one file are JSON Lines.
"""

from __future__ import annotations

import json
from typing import BinaryIO

from medmt5.corpus.document import Dropped, Entries, RawDocument


def read_text(stream: BinaryIO, name: str, lang: str) -> Entries:
    """Yields the whole file as a document with its name as id."""
    try:
        text = stream.read().decode("utf-8")
    except UnicodeDecodeError:
        yield Dropped("not_utf8")
        return
    yield RawDocument(name, text) if text.strip() else Dropped("no_text")


def read_jsonl(stream: BinaryIO, name: str, lang: str) -> Entries:
    """Yields a document for each line with a string `text`; `id` and `lang` are optional, other strings are `meta`."""
    for number, line in enumerate(stream, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):  # JSONDecodeError and UnicodeDecodeError are ValueErrors
            yield Dropped("bad_json")
            continue
        if not isinstance(record, dict) or not isinstance(record.get("text"), str) or not record["text"].strip():
            yield Dropped("no_text")
        elif record.get("lang", lang) != lang:
            yield Dropped("other_language")
        else:
            meta = {k: v for k, v in record.items() if k not in ("id", "text", "lang") and isinstance(v, str)}
            yield RawDocument(str(record.get("id", f"{name}:{number}")), record["text"], meta)
