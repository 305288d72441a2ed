"""A trained model, ready to use: what labelling, evaluation, the service and the Python door share. No TensorFlow.

Whatever a model was read from, it is a `TrainedModel`; who uses one does not ask where it came from.
"""

from __future__ import annotations

import atexit
import dataclasses
import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from medmt5 import partitioning
from medmt5.annotation.labels import known_labels
from medmt5.checkpoints.digests import tree_digests
from medmt5.checkpoints.manager import checkpoint_step
from medmt5.checkpoints.object_store import fetch_model
from medmt5.conversion.formats import WITH_MODEL_FILES, detect_format, open_source
from medmt5.conversion.initial import load_params, place
from medmt5.conversion.parameters import by_name
from medmt5.conversion.vocabulary_fit import fit_rows, has_label_tokens, make_tokenizer
from medmt5.model.mt5 import MT5Config, param_shapes
from medmt5.model_files import read_model_files
from medmt5.partitioning import Partitioning
from medmt5.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class TrainedModel:
    """A model with all that is needed to run it.

    Attributes:
      params: as `mt5.init_params` makes them, without their boxes, on the devices of `mesh`.
      feature_lengths: {"inputs": n, "targets": n} tokens, the lengths it was trained with.
      label_prompt: its inputs for sequence labelling begin with the opening tags of the permitted labels.
      checkpoint: where it was read from.
      step: of the checkpoint; 0 where the format knows none.
    """

    config: MT5Config
    params: Any
    tokenizer: Tokenizer
    feature_lengths: Mapping[str, int]
    label_prompt: bool
    mesh: Mesh
    checkpoint: Path
    step: int


def load_trained_model(checkpoint: str | Path, vocabulary: Path | None = None) -> TrainedModel:
    """Loads a model onto one device.

    Args:
      checkpoint: a MODEL_DIR (its newest checkpoint) or one `checkpoint_<step>` folder; a Hugging Face folder or a T5X
        checkpoint as it is. Of one on an object store a copy is made.
      vocabulary: its SentencePiece model, where none lies beside it (T5X).

    Raises:
      InputError: nothing there, damaged, or parameters of another shape than `model.json` says.
    """
    kind, folder = detect_format(fetch_model(checkpoint))
    rules = Partitioning(num_devices=1)
    mesh = rules.make_mesh()
    if kind not in WITH_MODEL_FILES:
        return _load_foreign(folder, vocabulary, rules, mesh)
    files = read_model_files(folder)
    shapes, shardings = _parameters(files.config, rules, mesh)
    params = load_params(folder, files.config, files.tokenizer, shapes, shardings)
    return TrainedModel(
        files.config,
        params,
        files.tokenizer,
        files.feature_lengths,
        files.label_prompt,
        mesh,
        folder,
        checkpoint_step(folder),
    )


def _load_foreign(folder: Path, vocabulary: Path | None, rules: Partitioning, mesh: Mesh) -> TrainedModel:
    """With the rows and ids that `medmt5 convert` gives it, but no tokens for labels where it knows none: such a model
    writes tags in pieces. The vocabulary's folder goes with the process.
    """
    source = open_source(folder)
    place_of_vocabulary = Path(tempfile.mkdtemp(prefix="medmt5-"))
    atexit.register(shutil.rmtree, place_of_vocabulary, ignore_errors=True)
    tokenizer = make_tokenizer(source, vocabulary, place_of_vocabulary / "vocabulary.model", known_labels())
    if not has_label_tokens(source, tokenizer):
        tokenizer = Tokenizer(tokenizer.model_file, labels=())
    weights = fit_rows(source, tokenizer)
    rows = weights.tensors()["token_embedder/embedding"].shape[0]
    config = dataclasses.replace(source.config, vocab_size=rows)
    _, shardings = _parameters(config, rules, mesh)
    params = place(weights, by_name(shardings))
    return TrainedModel(config, params, tokenizer, source.lengths, source.label_prompt, mesh, source.path, source.step)


def _parameters(config: MT5Config, rules: Partitioning, mesh: Mesh) -> tuple[Any, Any]:
    """Returns (shapes, shardings) of the parameters."""
    boxed = param_shapes(config)
    shapes = jax.tree.map(lambda box: box.value, boxed, is_leaf=lambda x: hasattr(x, "names"))
    return shapes, partitioning.parameter_shardings(boxed, mesh, rules)


def model_digest(model: TrainedModel) -> str:
    """Returns 16 hexadecimal digits that change with anything that outputs depend on, wherever it was read from."""
    facts = {
        "params": tree_digests(model.params),
        "config": model.config.to_json(),
        "vocabulary": [model.tokenizer.sha256, *model.tokenizer.labels],
        "inputs": model.feature_lengths["inputs"],
        "label_prompt": model.label_prompt,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
