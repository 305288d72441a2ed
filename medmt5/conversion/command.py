"""`medmt5 convert`: a model from one format into another, a tensor at a time."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from medmt5.annotation.labels import known_labels
from medmt5.conversion.adapters import MergedWeights
from medmt5.conversion.checkpoint import write_checkpoint
from medmt5.conversion.formats import FORMATS, INT8, OURS, T5X, WITH_MODEL_FILES, Source, open_source
from medmt5.conversion.huggingface import write_model
from medmt5.conversion.int8 import write_int8
from medmt5.conversion.model_card import write_model_card
from medmt5.conversion.t5x import write_t5x_legacy
from medmt5.conversion.views import AsDtype
from medmt5.conversion.vocabulary_files import write_tokenizer
from medmt5.conversion.vocabulary_fit import fit_rows, make_tokenizer
from medmt5.conversion.weights import TensorInfo, Weights
from medmt5.errors import InputError
from medmt5.model_files import ModelFiles, appearing, read_model_files, write_model_files
from medmt5.progress import progress_bar

DTYPES = ("float32", "bfloat16", "float16")


def convert(
    source: Path,
    target: Path,
    format: str,
    *,
    dtype: str = "float32",
    vocabulary: Path | None = None,
    scanned: bool = False,
    licence: str | None = None,
) -> None:
    """Writes the model in `source`, whatever its format, to the new folder `target`.

    Nothing is called `target` before it is whole. Peak memory is that of the largest tensor and a few blocks.

    Args:
      format: one of `formats.FORMATS`; "t5x" is the legacy layout of T5X.
      dtype: of the weights written, of "huggingface" and "t5x".
      vocabulary: the SentencePiece model, where the source has none beside it (T5X).
      scanned: of T5X, the layout of its scanned models.
      licence: of the weights, as SPDX writes it, for the model card.

    Raises:
      InputError: a source that is damaged or not a model of ours, a target that exists, a vocabulary that does not fit.
    """
    check_target(target, format, dtype)
    opened = open_source(source)
    if format == opened.format == OURS and not isinstance(opened.weights, MergedWeights):
        raise InputError(f"{opened.path} is a checkpoint of medmt5 already; copy the folder")
    labels = read_model_files(opened.path).tokenizer.labels if opened.format in WITH_MODEL_FILES else known_labels()
    write_source(opened, target, format, labels, dtype=dtype, vocabulary=vocabulary, scanned=scanned, licence=licence)


def check_target(target: Path, format: str, dtype: str = "float32") -> None:
    """Raises InputError for a target that exists, and a format or dtype that is not written."""
    if format not in FORMATS:
        raise InputError(f"a model is written as {', '.join(FORMATS)}, not {format!r}")
    if Path(target).absolute().exists():
        raise InputError(f"{Path(target).absolute()} exists; convert to a new folder, or delete it")
    if format == OURS and dtype != "float32":
        raise InputError(
            f"our checkpoints hold float32, not {dtype}; leave --dtype out (computing is ACTIVATION_DTYPE's)"
        )
    if format == INT8 and dtype != "float32":
        raise InputError(f"int8 weights have scales in float32, not {dtype}; leave --dtype out")


def write_source(
    opened: Source,
    target: Path,
    format: str,
    labels: Sequence[str],
    *,
    dtype: str = "float32",
    vocabulary: Path | None = None,
    scanned: bool = False,
    licence: str | None = None,
) -> None:
    """Writes an open model; see `convert`. `labels` are those of its tokenizer."""
    target = Path(target).absolute()
    with appearing(target) as folder, progress_bar("convert", _parameters(opened), "parameters") as advance:
        if format == T5X:
            counted = _Counted(AsDtype(opened.weights, dtype), advance)
            write_t5x_legacy(folder / f"checkpoint_{opened.step}", counted, scanned=scanned, step=opened.step)
            return
        tokenizer = make_tokenizer(opened, vocabulary, folder / "vocabulary.model", labels)
        weights = fit_rows(opened, tokenizer)
        rows = weights.tensors()["token_embedder/embedding"].shape[0]
        config = dataclasses.replace(opened.config, vocab_size=rows)
        if format in WITH_MODEL_FILES:
            write = write_int8 if format == INT8 else write_checkpoint
            write(folder / f"checkpoint_{opened.step}", weights, advance)
            write_model_files(folder, ModelFiles(config, tokenizer, opened.lengths, opened.label_prompt))
            return
        write_model(folder, weights, config, dtype, advance)
        write_tokenizer(folder, tokenizer, opened.lengths["inputs"])
        tokenizer.model_file.unlink()
        write_model_card(folder, opened.path, config, tokenizer, licence)


def _parameters(source: Source) -> int:
    return sum(math.prod(info.shape) for info in source.weights.tensors().values())


class _Counted:
    """`Weights` that tell of what is read of them."""

    def __init__(self, weights: Weights, advance: Callable[[int], None]):
        self._weights, self._advance = weights, advance

    def tensors(self) -> dict[str, TensorInfo]:
        return self._weights.tensors()

    def read(self, name: str, index: tuple[slice, ...] | None = None) -> np.ndarray:
        part = self._weights.read(name, index)
        self._advance(part.size)
        return part
