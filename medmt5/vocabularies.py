"""Published vocabularies by name: fetched once into the user's cache, checked by sha256 whenever they are asked for."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import NamedTuple

from medmt5 import storage
from medmt5.download import fetch, is_file_with
from medmt5.environment import cache_folder

logger = logging.getLogger(__name__)


class Published(NamedTuple):
    url: str
    sha256: str


VOCABULARIES = {
    # 250,100 pieces, sentinels included: of mT5 in every size, and of Medical mT5.
    "mt5": Published(
        "https://huggingface.co/google/mt5-large/resolve/50b7223e98fcd124b0cabb1ec81bc6324c7df107/spiece.model",
        "ef78f86560d809067d12bac6c09f19a462cb3af3f54d2b8acbba26e1433125d6",
    ),
}


def vocabulary_file(name_or_path: str | os.PathLike) -> Path:
    """Returns the SentencePiece model that is meant: of a name in `VOCABULARIES` the file in the cache, fetched if it
    is not there; of the URL of an object store a copy; anything else is a path, and comes back as it is. A file that is
    called like a name goes first.

    Raises:
      InputError: the file of a name cannot be fetched, or is not the one that was published.
    """
    path = Path(name_or_path)
    published = VOCABULARIES.get(os.fspath(name_or_path))
    if published is None or path.is_file():
        return storage.fetch_file(os.fspath(name_or_path))
    file = cache_folder() / "vocabularies" / f"{path.name}.model"
    if not is_file_with(file, published.sha256):
        logger.info("fetching the vocabulary %s from %s to %s", path.name, published.url, file)
        fetch(published.url, file, published.sha256)
    return file
