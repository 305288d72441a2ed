"""A trained model, ready to use: what labelling, evaluation, the service and the Python door share. No TensorFlow.

Whatever a model was read from, it is a `TrainedModel`; who uses one does not ask where it came from.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from medmt5 import partitioning
from medmt5.checkpoints.digests import tree_digests
from medmt5.checkpoints.manager import checkpoint_step, find_checkpoint
from medmt5.conversion.initial import load_params
from medmt5.model.mt5 import MT5Config, init_params
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


def load_trained_model(checkpoint: Path) -> TrainedModel:
    """Loads a model onto one device.

    Args:
      checkpoint: a MODEL_DIR (its newest checkpoint) or one `checkpoint_<step>` folder.

    Raises:
      InputError: nothing there, damaged, or parameters of another shape than `model.json` says.
    """
    folder = find_checkpoint(Path(checkpoint))
    files = read_model_files(folder)
    rules = Partitioning(num_devices=1)
    mesh = rules.make_mesh()
    boxed = jax.eval_shape(lambda: init_params(files.config, jax.random.key(0)))
    shapes = jax.tree.map(lambda box: box.value, boxed, is_leaf=lambda x: hasattr(x, "names"))
    shardings = partitioning.parameter_shardings(boxed, mesh, rules)
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
