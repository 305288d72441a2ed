"""INITIAL_CHECKPOINT_PATH: parameters of any format, straight into the shards of a model to be trained."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from medmt5.checkpoints.manager import restore_params
from medmt5.conversion.checkpoint import CheckpointWeights
from medmt5.conversion.formats import OURS, detect_format, open_source
from medmt5.conversion.parameters import as_tree, by_name, check_parameters
from medmt5.conversion.vocabulary_fit import check_same_pieces, check_size, fit_rows, labels_of, same_places
from medmt5.conversion.weights import Weights
from medmt5.model.mt5 import MT5Config
from medmt5.model_files import read_model_files
from medmt5.tokenizer import Tokenizer


def load_params(path: Path, config: MT5Config, tokenizer: Tokenizer, shapes: Any, shardings: Any) -> Any:
    """Returns the parameters in `path`, whatever its format, sharded; each process reads what its shards hold.

    A model with more or fewer rows of the vocabulary than `path` has takes the rows of the ids that `tokenizer` makes
    (`vocabulary_fit.fit_rows`).

    Args:
      path: as `formats.detect_format` takes.
      config: the shape of the model.
      tokenizer: what it will be trained with.
      shapes, shardings: trees of the parameters.

    Raises:
      InputError: damaged, another model's shape, another vocabulary.
    """
    kind, folder = detect_format(path)
    if kind == OURS and _rows(folder) == config.vocab_size and same_places(labels_of(folder), tokenizer.labels):
        beside = folder.parent / "vocabulary.model"  # a checkpoint that was moved has none
        if beside.is_file():
            check_same_pieces(folder, beside, tokenizer)

        def load_base(base: Path, shapes: Any, shardings: Any) -> Any:
            return load_params(base, config, tokenizer, shapes, shardings)

        return restore_params(folder, shapes, shardings, load_base)
    source = open_source(folder)
    if source.vocabulary is None:
        check_size(source, tokenizer)
    else:
        check_same_pieces(folder, source.vocabulary, tokenizer)
    weights = fit_rows(source, tokenizer, config.vocab_size)
    check_parameters(folder, weights.tensors(), config)
    return place(weights, by_name(shardings))


def _rows(folder: Path) -> int:
    info = CheckpointWeights(folder).tensors().get("token_embedder/embedding")
    return info.shape[0] if info else read_model_files(folder).config.vocab_size  # none: adapters, it is in the base


def place(weights: Weights, shardings: Mapping[str, Any]) -> Any:
    """Returns the tree of `weights` as float32 arrays of these shardings (by name), one tensor after the other."""
    return as_tree({name: _place(weights, name, sharding) for name, sharding in shardings.items()})


def _place(weights: Weights, name: str, sharding: Any) -> jax.Array:
    parts: dict[tuple, np.ndarray] = {}  # devices that hold copies of a part share one reading

    def read(index: Any) -> np.ndarray:
        key = tuple((s.start, s.stop) for s in index)
        if key not in parts:
            parts[key] = np.ascontiguousarray(weights.read(name, index), np.float32)
        return parts[key]

    return jax.make_array_from_callback(weights.tensors()[name].shape, sharding, read)
