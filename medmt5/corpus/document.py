"""What the readers of raw formats yield: documents, and the reasons why there is none."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

LINE_ENDS = re.compile(r"\r\n?|[\x0b\x0c\x85\u2028\u2029]")
# Control characters, the byte order mark, and lone surrogates, which JSON can spell and UTF-8 cannot.
UNWANTED = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x9f\ufeff\ud800-\udfff]")


@dataclass(frozen=True)
class RawDocument:
    """A text of the language asked for; `id` is unique in its source."""

    id: str
    text: str
    meta: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Dropped:
    """An entry of a raw file that gives no document; the reason is counted in the corpus's manifest."""

    reason: str


Entries = Iterator[RawDocument | Dropped]
Format = Callable[[BinaryIO, str, str], Entries]
"""Reads a stream of bytes, given the file's name (for ids and errors) and the code of the language wanted."""


def clean(text: str) -> str:
    """Returns `text` without control characters, with `\\n` as line end and at most one empty line in a row.

    The Unicode form is left as it is: offsets into the raw text and decomposed accents are the owner's choice.

    >>> clean("One\\x00 two  \\r\\n\\r\\n\\n\\n\\nthree ")
    'One two\\n\\nthree'
    """
    text = UNWANTED.sub("", LINE_ENDS.sub("\n", text))
    text = re.sub(r"[ \t]+(?=\n)", "", text)
    return re.sub(r"\n{3,}", "\n\n", text).strip()
