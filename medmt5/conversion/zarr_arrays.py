"""Zarr v2 arrays through TensorStore, as T5X writes them: in folders, or in the key-value store of an Orbax checkpoint.

Zarr takes a chunk that is not there for zeros. Here it is an error: T5X sets no fill value, and with none TensorStore
writes every chunk.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts

from medmt5.errors import InputError

MAX_CHUNK_BYTES = 2**30  # T5X's have at most 64 MiB
MAX_CHUNKS = 1_000_000
# Few files at a time: what TensorStore has read and not yet decoded lies in memory.
CONTEXT = ts.Context({"file_io_concurrency": {"limit": 4}})


class ZarrArray:
    """An open array, and its shape, dtype and chunks."""

    def __init__(self, name: str, store: ts.TensorStore, chunks: tuple[int, ...]):
        self._name, self._store = name, store
        self.shape: tuple[int, ...] = tuple(store.shape)
        self.dtype: str = store.dtype.name
        self.chunks = chunks

    def read(self, index: tuple[slice, ...]) -> np.ndarray:
        try:
            return self._store[index].read().result()
        except ValueError as error:
            raise InputError(f"{self._name} cannot be read, a chunk of it is damaged: {_first_line(error)}") from error


def open_zarr(name: str, kvstore: dict[str, Any], keys: Collection[str]) -> ZarrArray:
    """Opens the array whose .zarray lies at `kvstore`; `keys` are the files or keys beside it.

    Raises InputError, naming `name`, if there is none, if it is no zarr v2 or if a chunk of it is missing.
    """
    if ".zarray" not in keys:
        raise InputError(
            f"{name} is missing or no zarr array (no .zarray): the checkpoint is incomplete, copy it again"
        )
    try:
        store = ts.open({"driver": "zarr", "kvstore": kvstore}, context=CONTEXT, open=True, read=True).result()
        metadata = store.spec().to_json()["metadata"]
    except ValueError as error:
        raise InputError(f"{name} is no zarr array that can be read: {_first_line(error)}") from error
    array = ZarrArray(name, store, tuple(metadata["chunks"]))
    chunk_bytes = math.prod(array.chunks) * store.dtype.numpy_dtype.itemsize
    grid = [range(math.ceil(size / chunk)) for size, chunk in zip(array.shape, array.chunks, strict=True)]
    num_chunks = math.prod(map(len, grid))
    if chunk_bytes > MAX_CHUNK_BYTES or num_chunks > MAX_CHUNKS:
        raise InputError(
            f"{name} has {num_chunks} chunks of {chunk_bytes} bytes; at most {MAX_CHUNKS} of {MAX_CHUNK_BYTES} are read"
        )
    expected = [metadata["dimension_separator"].join(map(str, at)) or "0" for at in itertools.product(*grid)]
    lost = sorted(set(expected) - set(keys))
    if lost:
        raise InputError(
            f"{name} has {len(lost)} of {len(expected)} chunks missing ({', '.join(lost[:3])}), which zarr would read "
            "as zeros: the checkpoint is incomplete, copy it again"
        )
    return array


def open_folder(root: Path, name: str) -> ZarrArray:
    """Opens the array in the folder `name` of `root`; nothing outside of `root` is followed to."""
    folder = root / name
    keys = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
    outside = root.resolve()
    for path in (folder, *(folder / key for key in keys)):
        if path.is_symlink() and not path.resolve().is_relative_to(outside):
            raise InputError(f"{path} is a link out of the checkpoint; copy what it leads to into its place")
    return open_zarr(f"{root.name}/{name}", {"driver": "file", "path": f"{folder.absolute()}/"}, keys)


class Ocdbt:
    """The key-value store that an Orbax checkpoint keeps its arrays in."""

    def __init__(self, folder: Path):
        self._name = folder.name
        self._kvstore = {"driver": "ocdbt", "base": {"driver": "file", "path": f"{folder.absolute()}/"}}
        try:
            keys = ts.KvStore.open(self._kvstore, context=CONTEXT).result().list().result()
        except ValueError as error:
            raise InputError(f"{folder} cannot be read: {_first_line(error)}; copy it again") from error
        self.arrays: dict[str, list[str]] = {}  # name -> what belongs to it
        for key in keys:
            name, _, rest = key.decode().partition("/")
            self.arrays.setdefault(name, []).append(rest)

    def open(self, name: str) -> ZarrArray:
        kvstore = {**self._kvstore, "path": f"{name}/"}
        return open_zarr(f"{self._name}/{name}", kvstore, self.arrays.get(name, []))


def create_folder(
    root: Path, name: str, shape: tuple[int, ...], dtype: str, chunk_bytes: int
) -> tuple[ts.TensorStore, dict[str, Any]]:
    """Creates the array `name` in `root` in T5X's way: gzip 1, chunks of at most `chunk_bytes`, here of whole rows of
    axis 0 (one at least). Returns it, and its specification for T5X's index, whose path is relative.
    """
    row = math.prod(shape[1:]) * np.dtype(dtype).itemsize
    chunks = [max(1, min(shape[0], chunk_bytes // row)), *shape[1:]]
    metadata = {"shape": list(shape), "chunks": chunks, "compressor": {"id": "gzip", "level": 1}}
    spec = {"driver": "zarr", "dtype": dtype, "kvstore": {"driver": "file", "path": f"{name}/"}, "metadata": metadata}
    here = {**spec, "kvstore": {"driver": "file", "path": f"{(root / name).absolute()}/"}}
    return ts.open(here, context=CONTEXT, create=True).result(), spec


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0][:300]
