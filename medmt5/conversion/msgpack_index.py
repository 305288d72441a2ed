"""The index of a legacy T5X checkpoint: flax's msgpack, walked without reading an array.

msgpack's own `Unpacker` holds an object whole, and a leaf of the index may be an array of gigabytes. Here arrays are
passed over: what is kept is where their bytes are. Nothing of the file is trusted: lengths are held against the file's
size, depth and number of objects are limited.
"""

from __future__ import annotations

import math
import os
import struct
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import ml_dtypes  # noqa: F401  (NumPy knows bfloat16 by it)
import numpy as np

from medmt5.errors import InputError

MAX_DEPTH = 32
MAX_OBJECTS = 1_000_000  # mT5-XXL with its optimizer state has about 20,000
MAX_TEXT_BYTES = 2**16
ARRAY, SCALAR = 1, 3  # flax's extension types
CHUNKED = "__msgpack_chunked_array__"
_NUMBERS = dict(enumerate((">f", ">d", ">B", ">H", ">I", ">Q", ">b", ">h", ">i", ">q"), start=0xCA))
_LENGTHS = {1: ">B", 2: ">H", 4: ">I"}


class InlineArray(NamedTuple):
    """An array inside the file, C order: bytes at `pieces`, (offset, length), one after the other."""

    path: Path
    shape: tuple[int, ...]
    dtype: str
    pieces: tuple[tuple[int, int], ...]

    @property
    def chunks(self) -> tuple[int, ...]:
        """The least part worth reading: a row."""
        return (1, *self.shape[1:])

    def read(self, index: tuple[slice, ...]) -> np.ndarray:
        dtype = _dtype(self.dtype)
        row = math.prod(self.shape[1:]) * dtype.itemsize
        rows = self._bytes(index[0].start * row, index[0].stop * row).view(dtype)
        return rows.reshape(index[0].stop - index[0].start, *self.shape[1:])[(slice(None), *index[1:])]

    def _bytes(self, start: int, stop: int) -> np.ndarray:
        out = np.empty(stop - start, np.uint8)
        position = 0  # of a piece, in the array
        with self.path.open("rb") as file:
            for offset, length in self.pieces:
                first, last = max(start, position), min(stop, position + length)
                if first < last:
                    file.seek(offset + first - position)
                    if file.readinto(out.data[first - start : last - start]) != last - first:
                        raise InputError(f"{self.path} became shorter while it was read; copy it again")
                position += length
        return out


def read_index(path: Path) -> dict[str, Any]:
    """Returns the tree of a flax msgpack file: dicts, `InlineArray` for arrays and NumPy scalars, plain values.

    Raises InputError if the file is truncated, or is something else.
    """
    with path.open("rb") as file:
        tree = _Walk(path, file).value(0)
        if file.read(1):
            raise InputError(f"{path} goes on behind its end: it is no T5X checkpoint, or a damaged one")
    if not isinstance(tree, dict):
        raise InputError(f"{path} is no index of a T5X checkpoint: it holds no map")
    return tree


class _Walk:
    def __init__(self, path: Path, file: BinaryIO):
        self._path, self._file = path, file
        self._size = os.fstat(file.fileno()).st_size
        self._objects = 0

    def value(self, depth: int) -> Any:
        self._objects += 1
        if depth > MAX_DEPTH or self._objects > MAX_OBJECTS:
            raise InputError(f"{self._path} is no T5X checkpoint: more than {MAX_DEPTH} levels or {MAX_OBJECTS} values")
        code = self._take(1)[0]
        if code <= 0x7F or code >= 0xE0:
            return code if code <= 0x7F else code - 0x100
        if code in _NUMBERS:
            return self._number(_NUMBERS[code])
        if code <= 0x8F or code in (0xDE, 0xDF):
            return self._map(code & 0xF if code <= 0x8F else self._length(2 << (code - 0xDE)), depth)
        if code <= 0x9F or code in (0xDC, 0xDD):
            count = code & 0xF if code <= 0x9F else self._length(2 << (code - 0xDC))
            return [self.value(depth + 1) for _ in range(count)]
        if code <= 0xBF or 0xD9 <= code <= 0xDB:
            return self._text(code & 0x1F if code <= 0xBF else self._length(1 << (code - 0xD9)))
        if code in (0xC0, 0xC2, 0xC3):
            return {0xC0: None, 0xC2: False, 0xC3: True}[code]
        if 0xC4 <= code <= 0xC6:
            return self._skip(self._length(1 << (code - 0xC4)))
        if 0xC7 <= code <= 0xC9:
            return self._extension(self._length(1 << (code - 0xC7)), depth)
        if 0xD4 <= code <= 0xD8:
            return self._extension(1 << (code - 0xD4), depth)
        raise InputError(f"{self._path} is no T5X checkpoint: byte {code:#x} is no msgpack")

    def _map(self, count: int, depth: int) -> Any:
        tree: dict[str, Any] = {}
        for _ in range(count):
            key = self.value(depth + 1)
            if not isinstance(key, str) or key in tree:
                raise InputError(f"{self._path} is no T5X checkpoint: a map's key is {type(key).__name__}, or is twice")
            tree[key] = self.value(depth + 1)
        return self._joined(tree) if CHUNKED in tree else tree

    def _extension(self, length: int, depth: int) -> Any:
        kind = self._take(1)[0]
        start = self._file.tell()
        if kind not in (ARRAY, SCALAR):
            return self._skip(length)
        # (shape, dtype, bytes); the bytes come last and are passed over.
        if self._take(1)[0] != 0x93:
            raise InputError(f"{self._path} holds an array that flax did not write (at byte {start})")
        shape, dtype = self.value(depth + 1), self.value(depth + 1)
        code = self._take(1)[0]
        if not 0xC4 <= code <= 0xC6 or not isinstance(shape, list) or not isinstance(dtype, str):
            raise InputError(f"{self._path} holds an array that flax did not write (at byte {start})")
        size = self._length(1 << (code - 0xC4))
        array = InlineArray(self._path, tuple(shape), dtype, ((self._file.tell(), size),))
        self._skip(size)
        return self._checked(array)

    def _joined(self, tree: dict[str, Any]) -> InlineArray:
        """An array that flax cut, flattened, into pieces of 1 GiB."""
        try:
            pieces = [tree["chunks"][str(i)] for i in range(len(tree["chunks"]))]
            shape = tuple(tree["shape"][str(i)] for i in range(len(tree["shape"])))
            dtype = pieces[0].dtype
            if any(piece.dtype != dtype for piece in pieces):
                raise TypeError
            whole = InlineArray(self._path, shape, dtype, tuple(p for piece in pieces for p in piece.pieces))
        except (KeyError, TypeError, AttributeError, IndexError):
            raise InputError(f"{self._path} holds an array in chunks that flax did not write; it is damaged") from None
        return self._checked(whole)

    def _checked(self, array: InlineArray) -> InlineArray:
        shape, bytes_there = array.shape, sum(length for _, length in array.pieces)
        if not all(isinstance(n, int) and n >= 0 for n in shape):
            raise InputError(f"{self._path} holds an array of shape {shape}; it is damaged")
        expected = math.prod(shape) * _dtype(array.dtype).itemsize
        if expected != bytes_there:
            raise InputError(
                f"{self._path} has {bytes_there} bytes for an array {array.dtype}{list(shape)}, {expected} belong "
                "there: it is damaged, copy it again"
            )
        return array

    def _text(self, length: int) -> str:
        if length > MAX_TEXT_BYTES:
            raise InputError(f"{self._path} is no T5X checkpoint: a name of {length} bytes")
        return self._take(length).decode("utf-8", "replace")

    def _number(self, form: str) -> Any:
        return struct.unpack(form, self._take(struct.calcsize(form)))[0]

    def _length(self, width: int) -> int:
        return self._number(_LENGTHS[width])

    def _skip(self, length: int) -> None:
        self._within(length)
        self._file.seek(length, os.SEEK_CUR)

    def _take(self, length: int) -> bytes:
        self._within(length)
        return self._file.read(length)

    def _within(self, length: int) -> None:
        if self._file.tell() + length > self._size:
            raise InputError(f"{self._path} ends too early (at {self._size} bytes): it is truncated, copy it again")


def _dtype(name: str) -> np.dtype:
    try:
        dtype = np.dtype(name)
    except TypeError:
        raise InputError(f"an array of the checkpoint is {name!r}, no dtype that NumPy knows") from None
    if dtype.hasobject or dtype.names:
        raise InputError(f"an array of the checkpoint is {name!r}; only numbers are read")
    return dtype
