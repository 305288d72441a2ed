"""Text as annotation needs it: lines numbered, decoded without stopping, and never cut inside a line.

Only \\n and \\r\\n end a line, and \\r in a file that has no \\n, which is counted. `str.splitlines` would also end one
at U+2028 or U+0085, which occur inside real sentences.

Bytes that are not UTF-8 come from files joined of several encodings. 0xC2 and 0xC3 begin nearly every accented letter
of UTF-8: alone, they are what is left of one, and become U+FFFD. Others are read as CP1252, one character a byte (0xF1
is `ñ`), or as U+FFFD where CP1252 has none. Both are counted.
"""

from __future__ import annotations

import codecs
import os
import re
from collections.abc import Iterator

from medmt5.annotation.archives import read_members
from medmt5.annotation.repairs import Repairs
from medmt5.errors import InputError

# What `surrogateescape` makes of a byte that is not UTF-8, and what CP1252 makes of the same byte.
CP1252 = {
    0xDC00 + byte: bytes([byte]).decode("cp1252")
    for byte in range(0x80, 0x100)
    if byte not in (0x81, 0x8D, 0x8F, 0x90, 0x9D, 0xC2, 0xC3)
}
LOST = re.compile("[\udc80-\udcff]")


def read_lines(path: str | os.PathLike, repairs: Repairs) -> Iterator[tuple[int, str]]:
    """Yields (line number from 1, text without its end) of a file, which may lie in an archive.

    An empty file is counted and has no lines.
    """
    for _, data in read_members(path, ""):
        if is_empty(data, path, repairs):
            continue
        yield from split_lines(data, path, repairs)


def split_lines(data: bytes, path: str | os.PathLike, repairs: Repairs) -> Iterator[tuple[int, str]]:
    """Yields (line number from 1, text without its end) of a file's content."""
    end = b"\n"
    if end not in data and b"\r" in data.rstrip(b"\r"):
        end = b"\r"
        repairs.add("line ends of old Macs read", path)
    for number, line in enumerate(data.removeprefix(codecs.BOM_UTF8).split(end), start=1):
        line = line.rstrip(b"\r")
        if b"\r" in line:  # perhaps two lines that became one
            repairs.add("carriage return inside a line", path, number)
        yield number, decode(line, path, repairs, number)


def is_empty(data: bytes, path: str | os.PathLike, repairs: Repairs) -> bool:
    """Whether a file holds nothing but white space; if so it is counted."""
    empty = not data.removeprefix(codecs.BOM_UTF8).strip()
    if empty:
        repairs.add("empty file", path)
    return empty


def decode(data: bytes, path: str | os.PathLike, repairs: Repairs, line: int | None = None) -> str:
    """Returns `data` as text, a character for each byte that is not UTF-8; counted once a call and kind.

    Raises:
      InputError: it begins as UTF-16, of which nothing could be told but NULs.
    """
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise InputError(f"{path}: text must be UTF-8, but this is UTF-16; convert it (iconv -f UTF-16 -t UTF-8)")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        escaped = data.decode("utf-8", errors="surrogateescape")
    read = escaped.translate(CP1252)
    if read != escaped:
        repairs.add("invalid UTF-8 read as CP1252", path, line)
    text = LOST.sub("\ufffd", read)
    if text != read:
        repairs.add("invalid UTF-8 replaced", path, line)
    return text
