"""Compressed files as streams of bytes; a file that was cut off raises an error instead of ending early."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, BinaryIO, cast

import zstandard

from medmt5.errors import InputError

CHUNK_BYTES = 1 << 14
DAMAGE = (EOFError, OSError, zlib.error, lzma.LZMAError, zstandard.ZstdError)


@contextmanager
def open_stream(path: Path) -> Iterator[BinaryIO]:
    """Opens a file for reading bytes, decompressed if it ends in gz, bz2, xz or zst.

    A file that cannot be read to its end raises InputError with its name.
    """
    try:
        with path.open("rb") as file, _decompressed(file, path.suffix) as stream:
            yield cast(BinaryIO, stream)
    except DAMAGE as error:
        raise InputError(f"{path}: cannot be read, damaged or cut off: {error}") from error


def _decompressed(file: BinaryIO, suffix: str) -> IO[bytes] | io.BufferedIOBase:
    match suffix:
        case ".gz":
            return gzip.open(file)
        case ".bz2":
            return bz2.open(file)
        case ".xz":
            return lzma.open(file)
        case ".zst":
            return io.BufferedReader(_ZstdStream(file))
    return file


class _ZstdStream(io.RawIOBase):
    """All frames of a Zstandard file: zstandard's own reader stops after the first, and takes a cut one as complete."""

    def __init__(self, file: BinaryIO):
        self._file = file
        self._frame: zstandard.ZstdDecompressionObj | None = None
        self._unread, self._decompressed = b"", memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        while not self._decompressed:
            data = self._unread or self._file.read(CHUNK_BYTES)
            self._unread = b""
            if not data:
                if self._frame is not None:
                    raise EOFError("the last frame has no end")
                return 0
            frame = self._frame or zstandard.ZstdDecompressor().decompressobj()
            self._decompressed = memoryview(frame.decompress(data))
            self._unread, self._frame = (frame.unused_data, None) if frame.eof else (b"", frame)
        size = min(len(buffer), len(self._decompressed))
        buffer[:size] = self._decompressed[:size]
        self._decompressed = self._decompressed[size:]
        return size
