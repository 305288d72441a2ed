"""Cuts text into words, the same way for every language and everywhere in the project.

A run of letters, digits and combining marks (Unicode categories L*, N*, M*) is a word; every other visible character is
a word of its own. Between words stand separators (Z*: no-break and other wide or narrow spaces too), control characters
(Cc) and format characters (Cf: zero-width spaces and joiners, soft hyphens, direction marks, the byte order mark). All
of these are invisible, so nothing that a reader sees is ever outside a word. The price is that a soft hyphen cuts a
word in two.
"""

from __future__ import annotations

from functools import lru_cache
from unicodedata import category


def split_words(text: str) -> list[tuple[int, int]]:
    """Returns the words of `text` as (start, end) in characters, end exclusive.

    >>> text = "HbA1c: 7,2 % (niño)"
    >>> [text[start:end] for start, end in split_words(text)]
    ['HbA1c', ':', '7', ',', '2', '%', '(', 'niño', ')']
    """
    words = []
    start = None  # of the run of letters, digits and marks that is being read
    for position, character in enumerate(text):
        kind = _kind(character)
        if kind != "letter" and start is not None:
            words.append((start, position))
            start = None
        if kind == "letter" and start is None:
            start = position
        elif kind == "symbol":
            words.append((position, position + 1))
    if start is not None:
        words.append((start, len(text)))
    return words


@lru_cache(maxsize=4096)
def _kind(character: str) -> str:
    name = category(character)
    if name[0] in "LNM":
        return "letter"
    return "space" if name[0] == "Z" or name in ("Cc", "Cf") else "symbol"
