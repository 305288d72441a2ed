"""Weights as int8 with scales, for a file a quarter as large: MODEL_DIR/checkpoint_<step>/int8.safetensors.

Of a matrix, `<name>` holds int8 in [-127, 127], and `<name>/scale` float32, one for each output (of the embedding, each
row): weight = int8 * scale. Norms and relative positions stay float32. All is read as float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

from medmt5.checkpoints.object_store import MARK
from medmt5.conversion.parameters import parameter_shapes, shorten
from medmt5.conversion.safetensors import BLOCK_BYTES, DTYPES, INT8, read_header, row_blocks, write_safetensors
from medmt5.conversion.weights import TensorInfo, Weights
from medmt5.errors import InputError
from medmt5.model.mt5 import MT5Config

FILE = "int8.safetensors"
STORED = {"I8": INT8, "F32": DTYPES["F32"]}
LEVELS = 127  # on each side of zero
SPARE_BITS = 7  # of a scale's mantissa: int8 * scale is then exact, and rounding what was rounded changes nothing


class Int8Weights:
    """A folder with `FILE`, open: `Weights` in float32."""

    def __init__(self, folder: Path, config: MT5Config):
        """Raises InputError where tensors are missing, left over, or of another shape or dtype than the model's."""
        file = folder / FILE
        self._stored = read_header(file, STORED)
        self._infos = {name: TensorInfo(shape, "float32") for name, shape in parameter_shapes(config).items()}
        wanted = _stored_infos(self._infos)
        problems = [f"  missing: {name} {info.shape}" for name, info in wanted.items() if name not in self._stored]
        problems += [f"  not in this model: {name}" for name in self._stored if name not in wanted]
        problems += [
            f"  {name}: {place.shape} {place.info.dtype} there, {wanted[name].shape} {wanted[name].dtype} in this model"
            for name, place in self._stored.items()
            if name in wanted and place.info != wanted[name]
        ]
        if problems:
            raise InputError(f"{file} is damaged, or not of the model that model.json says\n" + shorten(problems))

    def tensors(self) -> dict[str, TensorInfo]:
        return dict(self._infos)

    def read(self, name: str, index: tuple[slice, ...] | None = None) -> np.ndarray:
        if (inputs := _inputs(name)) is None:
            return self._stored[name].read(index)
        of_scale = list(index or (slice(None),) * len(self._infos[name].shape))
        of_scale[inputs] = slice(None)
        scale = self._stored[_scale_name(name)].read(tuple(of_scale))
        return np.multiply(self._stored[name].read(index), scale, dtype=np.float32)


def write_int8(checkpoint: Path, weights: Weights, advance: Callable[[int], None]) -> None:
    """Writes `weights` to the new folder `checkpoint`; `advance(n)` hears of n parameters written.

    A matrix is rounded to the nearest of 255 levels: by at most half a scale. Raises InputError where it has values
    that are not finite.
    """
    checkpoint.mkdir()
    infos = dict(sorted(weights.tensors().items()))  # so that a model has one file, whatever it was read from
    blocks = (block for name in infos for block in _tensor_blocks(weights, name, advance))
    write_safetensors(checkpoint / FILE, _stored_infos(infos), blocks)
    (checkpoint / MARK).write_text("all of it is written\n", encoding="utf-8")  # for those who copy it to a store


def _tensor_blocks(weights: Weights, name: str, advance: Callable[[int], None]) -> Iterator[tuple[str, np.ndarray]]:
    """A generator of its own, so that the tensor is let go before the next one is read."""
    array = weights.read(name)
    if _inputs(name) is None:
        yield from ((name, block) for block in row_blocks(array, np.dtype(np.float32)))
        advance(array.size)
        return
    scale = find_scale(name, array)
    of_rows = np.broadcast_to(scale, (len(array), *scale.shape[1:]))
    rows = max(1, BLOCK_BYTES // (4 * math.prod(array.shape[1:])))
    for start in range(0, len(array), rows):
        part = slice(start, start + rows)
        yield name, np.rint(np.asarray(array[part], np.float32) / of_rows[part]).astype(np.int8)
        advance(array[part].size)
    yield _scale_name(name), scale


def find_scale(name: str, array: np.ndarray) -> np.ndarray:
    """Returns the step between levels for each output of a matrix, with an axis of length 1 for its inputs: float32.

    It is the largest value over 127, cut to 17 bits; for zeros the least normal number. Raises InputError where a value
    is not finite.
    """
    inputs = _inputs(name)
    largest = np.maximum(array.max(inputs, keepdims=True), -array.min(inputs, keepdims=True)).astype(np.float32)
    if not np.isfinite(largest).all():
        raise InputError(f"{name} has values that are not finite: int8 has no scale for them, and a model no use")
    bits = np.ascontiguousarray(largest / np.float32(LEVELS)).view(np.uint32)
    return np.maximum((bits & ~np.uint32((1 << SPARE_BITS) - 1)).view(np.float32), np.finfo(np.float32).tiny)


def _stored_infos(tensors: Mapping[str, TensorInfo]) -> dict[str, TensorInfo]:
    """Returns what the file holds of these parameters, in its order."""
    infos = {}
    for name, (shape, _) in tensors.items():
        if (inputs := _inputs(name)) is None:
            infos[name] = TensorInfo(shape, "float32")
            continue
        infos[name] = TensorInfo(shape, "int8")
        of_scale = list(shape)
        of_scale[inputs] = 1
        infos[_scale_name(name)] = TensorInfo(tuple(of_scale), "float32")
    return infos


def _inputs(name: str) -> int | None:
    """Returns the axis of a matrix along which a scale is shared; None for what stays float32."""
    return {"kernel": -2, "embedding": -1}.get(name.rpartition("/")[2])


def _scale_name(name: str) -> str:
    return f"{name}/scale"
