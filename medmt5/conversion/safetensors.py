"""safetensors files, a part of a tensor at a time: 8 bytes of length, a JSON header, then the tensors' bytes.

The library of that name wants everything in memory to write. Nothing here trusts a file: lengths, offsets and dtypes
are checked before a byte of data is read.
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import ml_dtypes
import numpy as np

from medmt5.conversion.weights import TensorInfo
from medmt5.errors import InputError

MAX_HEADER_BYTES = 100_000_000  # the format's own limit
BLOCK_BYTES = 1 << 25
DTYPES = {"F32": np.dtype(np.float32), "F16": np.dtype(np.float16), "BF16": np.dtype(ml_dtypes.bfloat16)}
INT8 = np.dtype(np.int8)  # of weights only with scales, which `int8` knows
_NAMES = {**{dtype: name for name, dtype in DTYPES.items()}, INT8: "I8"}


class Stored(NamedTuple):
    """Where a tensor lies: `offset` counts bytes from the beginning of the file."""

    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype
    offset: int

    @property
    def info(self) -> TensorInfo:
        return TensorInfo(self.shape, self.dtype.name)

    def read(self, index: tuple[slice, ...] | None = None) -> np.ndarray:
        """Returns the tensor, or the part of it at `index` (unit steps); no other byte is read."""
        bounds = [
            slice(*s.indices(n)[:2]) for s, n in zip(index or (slice(None),) * len(self.shape), self.shape, strict=True)
        ]
        out = np.empty([s.stop - s.start for s in bounds], self.dtype)
        with self.path.open("rb", buffering=0) as file:
            self._fill(file.fileno(), out, bounds, self.offset, self.shape)
        return out

    def _fill(self, file: int, out: np.ndarray, bounds: list[slice], offset: int, shape: tuple[int, ...]) -> None:
        if not bounds:
            return self._pread(file, out, offset)
        stride = math.prod(shape[1:]) * self.dtype.itemsize
        if all(s.start == 0 and s.stop == n for s, n in zip(bounds[1:], shape[1:], strict=True)):
            return self._pread(file, out, offset + bounds[0].start * stride)
        for row in range(len(out)):
            self._fill(file, out[row, ...], bounds[1:], offset + (bounds[0].start + row) * stride, shape[1:])

    def _pread(self, file: int, out: np.ndarray, offset: int) -> None:
        view = out.reshape(-1).view(np.uint8).data
        done = 0
        while done < len(view):  # the system reads at most 2 GiB at once
            count = os.preadv(file, [view[done:]], offset + done)
            if not count:
                raise InputError(f"{self.path} ended while it was read; it is being written or was cut short")
            done += count


def read_header(path: Path, dtypes: Mapping[str, np.dtype] = DTYPES) -> dict[str, Stored]:
    """Returns where every tensor of the file lies; `dtypes` are those it may have.

    Raises InputError saying what the file is instead, or what is wrong in it.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(512)
        if len(start) < 8 or not 2 <= (length := struct.unpack("<Q", start[:8])[0]) <= MAX_HEADER_BYTES:
            raise InputError(f"{path} is no safetensors file: {describe_content(start)}")
        if 8 + length > size:
            if start[8:9] != b"{":
                raise InputError(f"{path} is no safetensors file: {describe_content(start)}")
            raise InputError(
                f"{path} is cut short inside its header: {size} bytes, the header alone is {8 + length}; fetch it again"
            )
        file.seek(8)
        raw = file.read(length)
    try:
        header = json.loads(raw.decode("utf-8"), object_pairs_hook=_no_duplicates)
    except ValueError as error:
        raise InputError(f"{path} is no safetensors file: {describe_content(start)} ({error})") from error
    if not isinstance(header, dict):
        raise InputError(f"{path}: its header is a JSON {type(header).__name__}, not an object; write it again")
    header.pop("__metadata__", None)
    stored = {name: _stored(path, name, entry, 8 + length, dtypes) for name, entry in header.items()}
    _check_places(path, stored, 8 + length, size)
    return stored


def _stored(path: Path, name: str, entry: object, data_start: int, dtypes: Mapping[str, np.dtype]) -> Stored:
    try:
        dtype, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]  # type: ignore[index]
        if not all(type(n) is int and n >= 0 for n in (*shape, begin, end)):
            raise ValueError("a size or an offset is no whole number")
    except (TypeError, KeyError, ValueError) as error:
        raise InputError(
            f"{path}: the header's entry of {name!r} is malformed ({error}); write the file again"
        ) from None
    if dtype not in dtypes:
        raise InputError(f"{path}: {name} has the dtype {dtype}; what is read here is {', '.join(dtypes)}")
    if end - begin != math.prod(shape) * dtypes[dtype].itemsize:
        raise InputError(
            f"{path}: {name} {shape} {dtype} takes {math.prod(shape) * dtypes[dtype].itemsize} bytes, its header says "
            f"{end - begin}; the file is damaged, fetch it again"
        )
    return Stored(path, shape, dtypes[dtype], data_start + begin)


def _check_places(path: Path, stored: Mapping[str, Stored], data_start: int, size: int) -> None:
    """Tensors lie one after the other without gaps, and end where the file ends: the format's rule."""
    at = data_start
    for name, place in sorted(stored.items(), key=lambda item: (item[1].offset, math.prod(item[1].shape))):
        if place.offset != at:
            raise InputError(f"{path}: {name} begins at byte {place.offset}, not at {at}; the file is damaged")
        at += math.prod(place.shape) * place.dtype.itemsize
    if at != size:
        cut = "cut short" if size < at else "followed by bytes that are not its own"
        raise InputError(f"{path} is {cut}: {size} bytes, its header describes {at}; fetch it again")


def _no_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    if len(dict(pairs)) != len(pairs):
        raise ValueError("a name stands there twice")
    return dict(pairs)


def write_safetensors(path: Path, tensors: Mapping[str, TensorInfo], blocks: Iterable[tuple[str, np.ndarray]]) -> None:
    """Writes the header, then the tensors' bytes as `blocks` brings them: (name, C-ordered bytes that come next), in
    the order of `tensors`.

    Raises ValueError when a tensor gets more or fewer bytes than its shape has.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}  # which transformers insists on
    at = 0
    ends = {}
    for name, (shape, dtype) in tensors.items():
        size = math.prod(shape) * np.dtype(dtype).itemsize
        header[name] = {"dtype": _NAMES[np.dtype(dtype)], "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
        ends[name] = at
    raw = json.dumps(header, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)
    names = iter(tensors)
    name, at = "", 0
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(raw)) + raw)
        for block_name, block in blocks:
            if block_name != name:
                if at != ends.get(name, 0) or next(names, None) != block_name:
                    raise ValueError(f"{block_name} came after {at - ends.get(name, 0)} bytes too many of {name!r}")
                name = block_name
            if block.dtype != np.dtype(tensors[name].dtype):
                raise ValueError(f"{name}: {block.dtype} came, {tensors[name].dtype} was announced")
            file.write(np.ascontiguousarray(block).reshape(-1).view(np.uint8).data)
            at += block.nbytes
        if at != ends.get(name, 0) or next(names, None) is not None:
            raise ValueError(f"{path}: {at} bytes came, {sum(1 for _ in names)} tensors are missing")
        file.flush()
        os.fsync(file.fileno())


def row_blocks(array: np.ndarray, dtype: np.dtype) -> Iterator[np.ndarray]:
    """Yields the rows of `array`, whatever its order in memory, as C-ordered blocks of at most `BLOCK_BYTES`."""
    if array.ndim == 0:
        yield np.ascontiguousarray(array, dtype)
        return
    rows = max(1, BLOCK_BYTES // max(1, array.nbytes // max(1, len(array))))
    for start in range(0, max(1, len(array)), rows):  # an empty one is a block, too
        with np.errstate(over="ignore"):  # to infinity: the caller's to judge
            block = np.ascontiguousarray(array[start : start + rows], dtype)
        yield block


def describe_content(start: bytes) -> str:
    """Returns what a file that begins so is, and what to do."""
    text = start.lstrip().lower()
    if start.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer, not the file itself; run `git lfs pull` where it was cloned"
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "it is a web page; download the file itself, not the page about it"
    if start.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")):
        return "it is a pickle or a zip archive of PyTorch's, which can run code when it is read"
    if not start:
        return "it is empty"
    if text.startswith(b"{"):
        return "it is JSON"
    return f"it begins with the bytes {start[:8].hex(' ')}"
