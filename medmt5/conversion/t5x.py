"""Weights in and out of T5X's checkpoints.

    checkpoint_<step>/checkpoint, target.<dotted name>/   legacy: msgpack index, zarr arrays; the public mT5 and umT5
    checkpoint_<step>/state/                              Orbax: the same zarr arrays in an OCDBT key-value store

Both are read, with or without the optimizer's state, which is passed over. The legacy layout is written: all of T5X
reads it, runs with Orbax as well. `t5x_layout` has the names and axes.

Of the legacy index only names and inline arrays count. Where an array is said to lie elsewhere (a path, a bucket) the
folder with its dotted name is opened, and nothing else.
"""

from __future__ import annotations

import itertools
import math
import re
import shutil
import time
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from flax import serialization

from medmt5.conversion.msgpack_index import InlineArray, read_index
from medmt5.conversion.t5x_adafactor import first_state
from medmt5.conversion.t5x_layout import AXES, Layout, detect, layout_of
from medmt5.conversion.weights import TensorInfo, Weights
from medmt5.conversion.zarr_arrays import Ocdbt, create_folder, open_folder
from medmt5.errors import InputError

VERSION = 3  # of the index, since June 2021; version 2 differs in bfloat16 alone
BLOCK_BYTES = 2**26  # read or written at once
WRITES_AT_ONCE = 4  # compressing takes longer than all else
INDEX, STATE = "checkpoint", "state"


class _Array(Protocol):
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> str: ...
    @property
    def chunks(self) -> tuple[int, ...]: ...
    def read(self, index: tuple[slice, ...]) -> np.ndarray: ...


class T5XWeights:
    """A T5X checkpoint, open: `Weights` in our names and layout."""

    def __init__(self, leaves: Mapping[str, _Array], layout: Layout):
        self._leaves = leaves
        self._layout = layout
        self._infos = {name: TensorInfo(layout.shape(name), leaves[layout.leaves(name)[0]].dtype) for name in AXES}

    def tensors(self) -> dict[str, TensorInfo]:
        return dict(self._infos)

    def read(self, name: str, index: tuple[slice, ...] | None = None) -> np.ndarray:
        """Returns one parameter or a part of it. Raises InputError where a chunk is damaged."""
        layout, info = self._layout, self._infos[name]
        asked = [slice(*part.indices(size)[:2]) for part, size in zip(index or (), info.shape, strict=False)]
        asked += [slice(0, size) for size in info.shape[len(asked) :]]
        # T5X's scanned kernels know heads: what lies inside of one is cut out at the end.
        head_dim = 1 if layout.scan_axis is None else layout.sizes["K"]
        unit = [head_dim if axis == "J" else 1 for axis in AXES[name]]
        wide = [slice(s.start // n * n, -(-s.stop // n) * n) for s, n in zip(asked, unit, strict=True)]
        out = np.empty([max(0, s.stop - s.start) for s in wide], np.dtype(info.dtype))
        leaves, leaf_axes = layout.leaves(name), layout.axes(name)
        where = dict(zip(AXES[name], wide, strict=True))
        if "J" in where:
            joined = where["J"]
            where |= {"H": slice(joined.start // head_dim, joined.stop // head_dim), "K": slice(0, head_dim)}
        if layout.is_a_leaf_per_layer(name):
            for view, leaf in zip(out, leaves[wide[0]], strict=True):
                _read_into(view, self._leaves[leaf], [where[axis] for axis in leaf_axes])
        else:  # an axis of layers that ours has not: all are equal, the first is taken
            leaf_index = [where.get(axis, slice(0, 1)) for axis in leaf_axes]
            _read_into(layout.as_leaf(name, out), self._leaves[leaves[0]], leaf_index)
        return out[tuple(slice(a.start - w.start, a.stop - w.start) for a, w in zip(asked, wide, strict=True))]


def is_t5x(path: Path) -> bool:
    """Returns whether a folder is one T5X checkpoint, by what lies in it."""
    index, state = path / INDEX, path / STATE
    if index.is_file():
        with index.open("rb") as file:
            return file.read(1) in {bytes([n]) for n in (*range(0x80, 0x90), 0xDE, 0xDF)}  # TensorFlow's is text
    return (state / "manifest.ocdbt").is_file() and any(name.startswith("target.") for name in Ocdbt(state).arrays)


def open_t5x(path: Path) -> Weights:
    """Opens checkpoint_<step> of T5X, legacy or Orbax, scanned or not; reads nothing but names, shapes and the tables
    of relative positions.

    Raises InputError naming what is missing, left over, of a wrong shape or dtype, truncated or no T5X checkpoint.
    """
    path = Path(path)
    if not is_t5x(path):
        steps = sorted(p.name for p in path.glob("checkpoint_*")) if path.is_dir() else []
        hint = f"; give one of its folders: {', '.join(steps[:5])}" if steps else ""
        raise InputError(
            f"{path} is no checkpoint of T5X (a folder checkpoint_<step> with the file {INDEX}, or with "
            f"{STATE}/manifest.ocdbt that holds target.…){hint}"
        )
    leaves = _legacy_leaves(path) if (path / INDEX).is_file() else _orbax_leaves(path)
    layout = detect({name: TensorInfo(leaf.shape, leaf.dtype) for name, leaf in leaves.items()}, str(path))
    _check_relative_positions(leaves, layout, path)
    return T5XWeights(leaves, layout)


def write_t5x_legacy(path: Path, weights: Weights, *, scanned: bool, step: int) -> None:
    """Writes checkpoint_<step> as T5X does without Orbax; `scanned` for examples/scalable_t5 (layers on axis 1).

    The state of the optimizer is that of T5X's Adafactor before its first step, so that T5X's train, eval and infer
    restore it as it is. Raises InputError if the weights are no mT5's, or if `path` exists or has another name than
    T5X would find.
    """
    path = Path(path)
    if path.name != f"checkpoint_{step}":
        raise InputError(f"T5X finds a checkpoint by its name: write step {step} to {path / f'checkpoint_{step}'}")
    if path.exists():
        raise InputError(f"{path} exists; write to another folder, or delete it")
    layout = layout_of(weights.tensors(), 1 if scanned else None)
    temporary = path.with_name(f"{path.name}.tmp-{int(time.time())}")
    temporary.mkdir(parents=True)
    writes: deque[Any] = deque()
    try:
        optimizer = _write_arrays(temporary, weights, layout, step, writes)
        index = serialization.msgpack_serialize({"version": VERSION, "optimizer": optimizer})
        (temporary / INDEX).write_bytes(index)
        temporary.rename(path)
    except BaseException:
        for write in writes:
            write.exception()  # waits: it would write into the folder that is deleted
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _write_arrays(folder: Path, weights: Weights, layout: Layout, step: int, writes: deque[Any]) -> dict[str, Any]:
    """Writes the parameters, `writes` being the chunks under way; returns what the index tells of them and of the
    optimizer.
    """
    infos = weights.tensors()
    target: dict[str, Any] = {}
    states: dict[str, Any] = {}
    for name in AXES:
        shape = layout.leaf_shape(name)
        for number, leaf in enumerate(layout.leaves(name)):
            array, specification = create_folder(folder, _folder(leaf), shape, infos[name].dtype, BLOCK_BYTES)
            rows = specification["metadata"]["chunks"][0]
            for start in range(0, shape[0], rows):
                stop = min(start + rows, shape[0])
                writes.append(array[start:stop].write(_leaf_rows(weights, name, layout, number, start, stop)).commit)
                writes[-1].force()
                if len(writes) == WRITES_AT_ONCE:
                    writes.popleft().result()
            _put(target, leaf, specification)
            _put(states, leaf, first_state(layout.axes(name), shape))
    for write in writes:
        write.result()
    return {"target": target, "state": {"step": np.asarray(step, np.int32), "param_states": states}}


def _leaf_rows(weights: Weights, name: str, layout: Layout, layer: int, start: int, stop: int) -> np.ndarray:
    """Returns rows [start, stop) of axis 0 of a leaf, from `weights`."""
    ours, leaf = AXES[name], layout.axes(name)
    where = {axis: slice(0, size) for axis, size in zip(ours, layout.shape(name), strict=True)}
    rows = slice(start, stop)
    if leaf[0] == "H" and "J" in ours:
        where["J"] = slice(start * layout.sizes["K"], stop * layout.sizes["K"])
    else:
        where[leaf[0]] = rows
    if layout.is_a_leaf_per_layer(name):
        where[ours[0]] = slice(layer, layer + 1)
    part = weights.read(name, tuple(where[axis] for axis in ours))
    if layout.is_a_leaf_per_layer(name):
        return part[0]
    return np.broadcast_to(layout.as_leaf(name, part), (stop - start, *layout.leaf_shape(name)[1:]))


def _read_into(out: np.ndarray, array: _Array, index: list[slice]) -> None:
    """Fills `out` with `array` at `index`, a block of its chunks at a time: memory does not grow with the array."""
    steps, room = list(array.chunks), BLOCK_BYTES // np.dtype(array.dtype).itemsize
    for axis in reversed(range(len(steps))):
        steps[axis] = min(array.shape[axis], steps[axis] * max(1, room // math.prod(steps)))
    for block in itertools.product(*(_cut(part, step) for part, step in zip(index, steps, strict=True))):
        at = tuple(slice(b.start - i.start, b.stop - i.start) for b, i in zip(block, index, strict=True))
        out[at] = array.read(block)


def _cut(part: slice, step: int) -> Iterator[slice]:
    """Cuts a slice at the multiples of `step`."""
    start = part.start
    while start < part.stop:
        stop = min(part.stop, (start // step + 1) * step)
        yield slice(start, stop)
        start = stop


def _legacy_leaves(path: Path) -> dict[str, _Array]:
    file = path / INDEX
    index = read_index(file)
    version, optimizer = index.get("version", 0), index.get("optimizer")
    if not isinstance(version, int) or not 2 <= version <= VERSION:
        raise InputError(f"{file} is of version {version!r}; versions 2 and 3 are read: load and save it with T5X once")
    if not isinstance(optimizer, dict) or not isinstance(optimizer.get("target"), dict):
        raise InputError(f"{file} has no optimizer/target, where T5X keeps the parameters; it is no checkpoint of T5X")
    leaves: dict[str, _Array] = {}
    for name, leaf in _flat(optimizer["target"], file):
        if isinstance(leaf, InlineArray):
            leaves[name] = leaf
        elif isinstance(leaf, dict) and leaf.get("driver") == "zarr":
            leaves[name] = open_folder(path, _folder(name))
        else:
            raise InputError(f"{file}: target/{name} is neither an array nor a zarr specification")
    return leaves


def _flat(tree: dict[str, Any], file: Path, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if not re.fullmatch(r"[A-Za-z0-9_]+", key):  # so that no name is a path out of the checkpoint
            raise InputError(f"{file}: target/{prefix}{key!r} is no name of a T5X parameter")
        if isinstance(value, dict) and not {"driver", "kvstore"} <= value.keys():
            yield from _flat(value, file, f"{prefix}{key}/")
        else:
            yield f"{prefix}{key}", value


def _orbax_leaves(path: Path) -> dict[str, _Array]:
    store = Ocdbt(path / STATE)
    names = [name for name in store.arrays if name.startswith("target.")]
    return {name.removeprefix("target.").replace(".", "/"): store.open(name) for name in names}


def _check_relative_positions(leaves: Mapping[str, _Array], layout: Layout, path: Path) -> None:
    """A scanned model has a table for each layer; ours, T5 1.1 and mT5 have one for all."""
    if layout.scan_axis is None:
        return
    for stack in ("encoder", "decoder"):
        leaf = leaves[f"{stack}/{stack}/relpos_bias/rel_embedding"]
        table = np.empty(leaf.shape, np.dtype(leaf.dtype))
        _read_into(table, leaf, [slice(0, size) for size in leaf.shape])
        bits = table.view(np.uint16 if table.dtype.itemsize == 2 else np.uint32)
        if (bits != bits.take([0], axis=layout.scan_axis)).any():
            raise InputError(
                f"{path}: the layers of the {stack} have different tables of relative positions (relpos_bias): that is "
                "umT5, or an mT5 trained on as a scanned model. medmt5 has one table for all layers, as T5 1.1 and mT5"
            )


def _folder(leaf: str) -> str:
    return f"target.{leaf.replace('/', '.')}"


def _put(tree: dict[str, Any], name: str, value: Any) -> None:
    *folders, last = name.split("/")
    for folder in folders:
        tree = tree.setdefault(folder, {})
    tree[last] = value
