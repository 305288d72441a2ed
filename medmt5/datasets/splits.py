"""A dev split for sets whose owners give none: documents of "train", chosen by a hash of their ids.

Whether a document is in it depends on its id alone, so that another document moves none; and a document that comes in
several languages under one id (DIANN's) is in the same split in all of them.
"""

from __future__ import annotations

import hashlib

SEED = 4
"""The first from 0 with which each language of E3C, of 36 documents, has 5 to 9 in dev, where 7.2 are expected."""


def is_dev(document: str, share: float) -> bool:
    """Returns whether a document of "train" goes to "dev", as about `share` of all do.

    >>> sum(is_dev(f"document {i}", 0.1) for i in range(1000))
    117
    """
    digest = hashlib.sha256(f"{SEED}:{document}".encode()).digest()
    return int.from_bytes(digest[:8]) < share * 2**64
