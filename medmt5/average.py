"""The mean of checkpoints, of one run or of several (`medmt5 average`): a model like any other, in its own MODEL_DIR.

A block of one parameter is read of every checkpoint, summed in float64 and written: no model is ever in memory whole.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medmt5 import storage
from medmt5.checkpoints.manager import PREFIX, checkpoint_step, checkpoints_in, data_digest, find_checkpoint
from medmt5.conversion.checkpoint import chunk_shape, grid, write_checkpoint
from medmt5.conversion.formats import open_source
from medmt5.conversion.weights import TensorInfo, Weights
from medmt5.errors import InputError
from medmt5.model_files import ModelFiles, appearing, read_model_files, write_model_files


def average(checkpoints: Sequence[Path], output: Path, last: int | None = None) -> Path:
    """Writes the mean of checkpoints to the new MODEL_DIR `output`; returns its one checkpoint folder.

    The folder appears when all of it is there. Its step is the largest of the checkpoints'; its `data` names them.

    Args:
      checkpoints: MODEL_DIRs (their newest) or checkpoint folders; of adapters, merged into their base.
      last: the newest so many of the one MODEL_DIR that is given.

    Raises:
      InputError: fewer than two checkpoints, `output` is there, or models that differ in shape, vocabulary or labels.
    """
    folders = _newest(checkpoints, last) if last is not None else [find_checkpoint(path) for path in checkpoints]
    if len(folders) < 2:
        raise InputError("a mean is of at least two checkpoints; name them, or give one MODEL_DIR and --last N")
    if output.exists():
        raise InputError(f"{output} is there already; give --output a folder that is not")
    files = [read_model_files(folder) for folder in folders]
    for folder, other in zip(folders[1:], files[1:], strict=True):
        _check_alike(folders[0], files[0], folder, other)
    mean = Mean(folders, [open_source(folder).weights for folder in folders])
    step = max(map(checkpoint_step, folders))
    data = {"next_step": step, "mean_of": list(map(storage.origin, folders))}
    with appearing(output) as folder:
        checkpoint = folder / f"{PREFIX}_{step}"
        write_checkpoint(checkpoint, mean, advance=lambda _: None)
        _write_data(checkpoint, data)
        write_model_files(folder, files[0])
    return output / checkpoint.name


class Mean:
    """`Weights`: the mean of several, in float32."""

    def __init__(self, names: Sequence[Path], weights: Sequence[Weights]):
        self._weights = weights
        first, *others = [{name: info.shape for name, info in w.tensors().items()} for w in weights]
        for folder, shapes in zip(names[1:], others, strict=True):
            differing = sorted(name for name in first.keys() | shapes.keys() if first.get(name) != shapes.get(name))
            if differing:
                name = differing[0]
                raise InputError(
                    f"{names[0]} and {folder} have no mean: {len(differing)} parameters differ, first {name}: "
                    f"{first.get(name, 'missing')} and {shapes.get(name, 'missing')}"
                )
        self._tensors = {name: TensorInfo(shape, "float32") for name, shape in first.items()}

    def tensors(self) -> dict[str, TensorInfo]:
        return self._tensors

    def read(self, name: str, index: tuple[slice, ...] | None = None) -> np.ndarray:
        if index is None:
            shape = self._tensors[name].shape
            out = np.empty(shape, np.float32)
            for block in grid(shape, chunk_shape(shape, 8)):
                out[block] = self.read(name, block)
            return out
        first, *others = self._weights
        total = first.read(name, index).astype(np.float64)
        for weights in others:
            total += weights.read(name, index)
        return (total / len(self._weights)).astype(np.float32)


def _newest(checkpoints: Sequence[Path], last: int) -> list[Path]:
    if len(checkpoints) != 1:
        raise InputError(f"--last {last} is of one MODEL_DIR, not of {len(checkpoints)}")
    newest = find_checkpoint(checkpoints[0])
    if newest == checkpoints[0].absolute():
        raise InputError(f"--last {last} is of a MODEL_DIR, not of the checkpoint {newest}; give {newest.parent}")
    found = checkpoints_in(newest.parent)
    if len(found) < last:
        raise InputError(f"--last {last}, but {newest.parent} has {len(found)} checkpoints; lower it")
    return [found[step] for step in sorted(found)[-last:]]


def _check_alike(first: Path, files: ModelFiles, folder: Path, other: ModelFiles) -> None:
    """Raises InputError where two models do not mean the same by their inputs and outputs."""
    pairs: dict[str, tuple[Any, Any]] = {"vocabulary (sha256)": (files.tokenizer.sha256, other.tokenizer.sha256)}
    pairs["labels"] = files.tokenizer.labels, other.tokenizer.labels
    for field in dataclasses.fields(ModelFiles):
        if field.name not in ("config", "tokenizer"):
            pairs[field.name.replace("_", " ")] = getattr(files, field.name), getattr(other, field.name)
    differing = [f"{name}: {a} and {b}" for name, (a, b) in pairs.items() if a != b]
    if differing:
        raise InputError(f"{first} and {folder} have no mean, they differ in {'; '.join(differing)}")


def _write_data(checkpoint: Path, data: dict) -> None:
    digests = checkpoint / "digests" / "metadata"
    known = json.loads(digests.read_text(encoding="utf-8"))
    digests.write_text(json.dumps({**known, "data": data_digest(data)}), encoding="utf-8")
    (checkpoint / "data").mkdir()
    (checkpoint / "data" / "metadata").write_text(json.dumps(data), encoding="utf-8")
