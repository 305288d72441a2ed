"""Checkpoints of adapters as weights of the whole model: base and adapters are read, and merged, a tensor at a time."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from medmt5.checkpoints.adapters import Record, record_in
from medmt5.checkpoints.digests import block_digest
from medmt5.conversion.checkpoint import grid, open_checkpoint
from medmt5.conversion.weights import TensorInfo, Weights
from medmt5.errors import InputError
from medmt5.model import lora

BLOCK_BYTES = 1 << 25


def open_model(checkpoint: Path, open_base: Callable[[Path], Weights]) -> Weights:
    """Opens one of our checkpoints, checked against its digests; one of adapters as merged into its base.

    `open_base` opens a base in any format.

    Raises InputError where something is damaged, or the base is gone or another one.
    """
    weights = open_checkpoint(checkpoint)
    record = _read_record(Path(checkpoint))
    if record is None:
        return weights
    return MergedWeights(weights, open_base(record.base_folder(checkpoint)), record)


class MergedWeights:
    """`Weights` of the plain model: those of `base`, with what the checkpoint `own` holds instead or beside."""

    def __init__(self, own: Weights, base: Weights, record: Record):
        self._own, self._base, self._alpha = own, base, record.alpha
        self._of_own, self._tensors = own.tensors(), base.tensors()
        frozen = [name for name in self._tensors if name not in self._of_own]
        record.compare({_path(name): _digest(base, name) for name in frozen}, Path(record.base))

    def tensors(self) -> dict[str, TensorInfo]:
        return self._tensors

    def read(self, name: str, index: tuple[slice, ...] | None = None) -> np.ndarray:
        weights = (self._own if name in self._of_own else self._base).read(name, index)
        a, b = (name.rpartition("/")[0] + f"/{adapter}" for adapter in (lora.A, lora.B))
        if not name.endswith("/kernel") or a not in self._of_own:
            return weights
        *stack, inputs, outputs = index or (slice(None),) * weights.ndim
        rank = self._of_own[a].shape[-1]
        delta = self._own.read(a, (*stack, inputs, slice(None))) @ self._own.read(b, (*stack, slice(None), outputs))
        return weights + np.float32(self._alpha / rank) * delta


def _read_record(checkpoint: Path) -> Record | None:
    file = checkpoint / "data" / "metadata"
    try:
        return record_in(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else None
    except (ValueError, TypeError) as error:
        raise InputError(f"{file} cannot be read, it is damaged: {error}") from error


def _digest(weights: Weights, name: str) -> int:
    """Returns the digest of a tensor, as `tree_digests` computes it, from blocks of rows."""
    shape, total = weights.tensors()[name].shape, 0
    row_bytes = 4 * int(np.prod(shape[1:]))
    chunks = (max(1, min(shape[0], BLOCK_BYTES // row_bytes)), *shape[1:])
    for block in grid(shape, chunks):
        total += block_digest(weights.read(name, block), [part.start for part in block])
    return total & 0xFFFFFFFF


def _path(name: str) -> str:
    """Returns a name as JAX prints paths: the key of a digest."""
    return "".join(f"[{key!r}]" for key in name.split("/"))
