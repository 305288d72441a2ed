"""Dropping documents that another one repeats, but for case, spaces and punctuation.

Only whole documents are compared; near duplicates stay.
"""

from __future__ import annotations

import hashlib
import unicodedata

import regex
from datatrove.data import Document
from datatrove.pipeline.filters.base_filter import BaseFilter

# Signs such as < and + are kept: "< 5" and "> 5" are two findings.
SEPARATORS = regex.compile(r"[\p{P}\p{Z}\p{C}]+")


def fold(text: str) -> str:
    """Returns `text` without what duplicates may differ in: Unicode form, case, spaces and punctuation.

    >>> fold("Fie\\u0300vre,  TOUX.") == fold("fièvre toux")
    True
    """
    return SEPARATORS.sub(" ", unicodedata.normalize("NFKC", text).casefold()).strip()


class Duplicates(BaseFilter):
    """Keeps the first of documents that fold to the same text, in the order of sources, files and entries.

    `seen` holds 16 bytes a document; sources that share it are deduplicated together.
    """

    name = "Duplicates"

    def __init__(self, seen: set[bytes]):
        super().__init__()
        self.seen = seen

    def filter(self, doc: Document) -> tuple[bool, str]:
        key = hashlib.blake2b(fold(doc.text).encode(), digest_size=16).digest()
        new = key not in self.seen
        self.seen.add(key)
        return new, "duplicate"
