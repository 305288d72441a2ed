"""Our own checkpoints, a block at a time: MODEL_DIR/checkpoint_<step> as `checkpoints.manager` saves and restores it.

Orbax takes whole arrays, all at once. What it writes is zarr arrays in an OCDBT store, `params.<name with dots>`, and a
JSON file of names; TensorStore reads and writes those. A checkpoint written here holds parameters alone: one to label
and evaluate with, or to start from, not one to go on training.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts

from medmt5.checkpoints.digests import block_digest
from medmt5.checkpoints.manager import CHUNK_BYTES
from medmt5.checkpoints.object_store import MARK
from medmt5.conversion.parameters import shorten
from medmt5.conversion.weights import TensorInfo, Weights
from medmt5.errors import InputError

PREFIX = "params."
# Few files at a time: what TensorStore has read and not yet decoded lies in memory.
CONTEXT = ts.Context({"file_io_concurrency": {"limit": 2}, "data_copy_concurrency": {"limit": 2}})


class CheckpointWeights:
    """The parameters of a checkpoint, open: `Weights`."""

    def __init__(self, checkpoint: Path):
        self.checkpoint = Path(checkpoint).absolute()
        try:
            keys = ts.KvStore.open(_kvstore(self.checkpoint), context=CONTEXT).result().list().result()
            names = [key.decode().removesuffix("/.zarray") for key in keys if key.endswith(b"/.zarray")]
            self._stores = {
                name.removeprefix(PREFIX).replace(".", "/"): _open(self.checkpoint, name)
                for name in names
                if name.startswith(PREFIX)
            }
        except ValueError as error:
            raise InputError(f"{self.checkpoint} cannot be read, it is damaged or not ours: {_first(error)}") from error

    def tensors(self) -> dict[str, TensorInfo]:
        return {name: TensorInfo(tuple(store.shape), store.dtype.name) for name, store in self._stores.items()}

    def read(self, name: str, index: tuple[slice, ...] | None = None) -> np.ndarray:
        store = self._stores[name]
        if index is not None:
            return self._read(name, index)
        out = np.empty(store.shape, store.dtype.numpy_dtype)
        for block in grid(store.shape, store.chunk_layout.read_chunk.shape):
            out[block] = self._read(name, block)
        return out

    def check(self) -> None:
        """Raises InputError unless all parameters match the digests they were saved with; reads every one of them, a
        chunk at a time.
        """
        recorded = _recorded_digests(self.checkpoint)
        wrong = []
        for name, store in self._stores.items():
            total = 0
            for block in grid(store.shape, store.chunk_layout.read_chunk.shape):
                total += block_digest(self._read(name, block), [part.start for part in block])
            if recorded.get(_path(name)) != total & 0xFFFFFFFF:
                wrong.append(f"  {name}")
        if wrong:
            raise InputError(
                f"{self.checkpoint}: {len(wrong)} of {len(self._stores)} parameters differ from what was saved: it is "
                "damaged; use an older checkpoint, or another copy\n" + shorten(wrong)
            )

    def _read(self, name: str, index: tuple[slice, ...]) -> np.ndarray:
        try:
            return self._stores[name][index].read().result()
        except ValueError as error:
            raise InputError(f"{self.checkpoint}: {name} cannot be read, it is damaged: {_first(error)}") from error


def open_checkpoint(checkpoint: Path) -> CheckpointWeights:
    """Opens checkpoint_<step>, its parameters checked against their digests."""
    weights = CheckpointWeights(checkpoint)
    weights.check()
    return weights


def write_checkpoint(checkpoint: Path, weights: Weights, advance: Callable[[int], None]) -> None:
    """Writes `weights` as float32 to the new folder `checkpoint`; `advance(n)` hears of n parameters written."""
    checkpoint = Path(checkpoint).absolute()
    state = checkpoint / "state"
    state.mkdir(parents=True)
    digests: dict[str, int] = {}
    infos = weights.tensors()
    for name in infos:
        digests[_path(name)] = _write_tensor(checkpoint, name, weights, advance)
    tree = {
        str(("params", *name.split("/"))): {
            "key_metadata": [{"key": key, "key_type": 2} for key in ("params", *name.split("/"))],  # 2: of a dictionary
            "value_metadata": {
                "value_type": "jax.Array",
                "skip_deserialize": False,
                "write_shape": list(info.shape),
            },
        }
        for name, info in infos.items()
    }
    _write_json(
        state / "_METADATA",
        {
            "tree_metadata": tree,
            "use_ocdbt": True,
            "use_zarr3": False,
            "store_array_data_equal_to_fill_value": True,
            "custom_metadata": None,
        },
    )
    _write_json(checkpoint / "digests" / "metadata", digests)
    (checkpoint / MARK).write_text("all of it is written\n", encoding="utf-8")  # for those who copy it to a store


def _write_tensor(checkpoint: Path, name: str, weights: Weights, advance: Callable[[int], None]) -> int:
    """Returns the digest of what it writes."""
    array = weights.read(name)
    metadata = {
        "shape": list(array.shape),
        "chunks": chunk_shape(array.shape, 4),
        "dtype": "<f4",
        "compressor": {"id": "zstd", "level": 1},
        "fill_value": None,  # so that TensorStore writes chunks of zeros too
        "filters": None,
        "order": "C",
        "dimension_separator": ".",
        "zarr_format": 2,
    }
    store = _open(checkpoint, PREFIX + name.replace("/", "."), create=True, metadata=metadata)
    total = 0
    for block in grid(array.shape, metadata["chunks"]):
        values = np.ascontiguousarray(array[block], np.float32)
        store[block].write(values).result()
        total += block_digest(values, [part.start for part in block])
        advance(values.size)
    return total & 0xFFFFFFFF


def chunk_shape(shape: tuple[int, ...], itemsize: int) -> list[int]:
    """Returns the largest chunks of at most `CHUNK_BYTES` that are contiguous in an array of this shape."""
    chunks: list[int] = []
    for axis, size in enumerate(shape):
        inner = math.prod(shape[axis + 1 :]) * itemsize
        whole = all(chunk == 1 for chunk in chunks)  # until an axis is cut, those inside it are whole
        chunks.append(max(1, min(size, CHUNK_BYTES // inner)) if whole and inner else size)
    return chunks


def grid(shape: tuple[int, ...], chunks: Any) -> Iterator[tuple[slice, ...]]:
    """Yields the places of the chunks of an array, in its order."""
    axes = [
        [slice(start, min(start + chunk, size)) for start in range(0, size, chunk)]
        for size, chunk in zip(shape, chunks, strict=True)
    ]
    yield from itertools.product(*axes)


def _open(checkpoint: Path, name: str, **arguments: Any) -> Any:
    spec = {"driver": "zarr", "kvstore": {**_kvstore(checkpoint), "path": f"{name}/"}}
    if metadata := arguments.pop("metadata", None):
        spec["metadata"] = metadata
    return ts.open(spec, context=CONTEXT, **arguments).result()


def _kvstore(checkpoint: Path) -> dict[str, Any]:
    return {"driver": "ocdbt", "base": {"driver": "file", "path": f"{checkpoint / 'state'}/"}}


def _recorded_digests(checkpoint: Path) -> dict[str, int]:
    try:
        return json.loads((checkpoint / "digests" / "metadata").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{checkpoint} has no digests that can be read, it is damaged or not ours: {error}") from error


def _write_json(path: Path, value: object) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def _path(name: str) -> str:
    """Returns a parameter's path in the state, as JAX prints it: the key of its digest."""
    return ".params" + "".join(f"[{key!r}]" for key in name.split("/"))


def _first(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:300]
