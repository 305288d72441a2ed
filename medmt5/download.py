"""A file from the network, kept only if it is the one that was declared.

It appears under its name when it is whole and has the declared sha256, never before.
"""

from __future__ import annotations

import hashlib
import http.client
import urllib.request
import uuid
from collections.abc import Callable
from pathlib import Path

from medmt5.errors import InputError

MAX_BYTES = 64 << 20  # of one file; the largest declared one, mT5's vocabulary, has 4.3 MB
CHUNK_BYTES = 1 << 16
TIMEOUT_SECONDS = 60


def fetch(
    url: str, file: Path, sha256: str, advance: Callable[[int, int | None], object] = lambda done, total: None
) -> None:
    """Writes what is at `url` to `file`, if its digest is `sha256`; `advance(bytes so far, bytes in all)` is told.

    Raises:
      InputError: no connection; another file than declared, or one too large.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_name(f".{file.name}.{uuid.uuid4().hex}.part")
    digest, done = hashlib.sha256(), 0
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as answer, unfinished.open("wb") as out:
            total = int(answer.headers.get("Content-Length") or 0) or None
            while chunk := answer.read(CHUNK_BYTES):
                done += len(chunk)
                if max(done, total or 0) > MAX_BYTES:
                    raise InputError(
                        f"{url} has more than {MAX_BYTES:,} bytes, which no declared file has; not fetched"
                    )
                digest.update(chunk)
                out.write(chunk)
                advance(done, total)
        if digest.hexdigest() != sha256:
            raise InputError(
                f"{url} is not the declared file: its sha256 is {digest.hexdigest()}, not {sha256}; not kept. Try "
                "again; if it stays so, the owners changed it, or somebody else did"
            )
        unfinished.replace(file)
    except (OSError, http.client.HTTPException) as error:
        raise InputError(
            f"{url} could not be fetched: {error}; check the connection, or put the file at {file}"
        ) from error
    finally:
        unfinished.unlink(missing_ok=True)


def is_file_with(file: Path, sha256: str) -> bool:
    """Returns whether `file` is there and has this digest."""
    if not file.is_file():
        return False
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest() == sha256
