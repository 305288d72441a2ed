"""Lines of a text file as annotation needs them: numbered, decoded without stopping, and never cut inside a line.

Only \\n and \\r\\n end a line. `str.splitlines` would also end one at U+2028 or U+0085, which occur inside real
sentences.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from medmt5.annotation.repairs import Repairs
from medmt5.errors import InputError


def read_lines(path: str | os.PathLike, repairs: Repairs) -> Iterator[tuple[int, str]]:
    """Yields (line number from 1, text without its end). Bytes that are not UTF-8 become U+FFFD and are counted."""
    if not Path(path).is_file():
        raise InputError(f"no file {os.fspath(path)}; check the path")
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            yield number, decode(line.rstrip(b"\r\n"), path, repairs, number)


def decode(data: bytes, path: str | os.PathLike, repairs: Repairs, line: int | None = None) -> str:
    """Returns `data` as text; bytes that are not UTF-8 become U+FFFD, counted once a call."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        repairs.add("invalid UTF-8 replaced", path, line)
        return data.decode("utf-8", errors="replace")
