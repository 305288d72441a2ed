"""A model written as training writes it is loaded as it was; a digest knows it again, and knows another one."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from medmt5.checkpoints.manager import CheckpointManager
from medmt5.errors import InputError
from medmt5.model_files import ModelFiles, write_model_files
from medmt5.trained_model import load_trained_model, model_digest
from medmt5.training.step import TrainState


@pytest.fixture
def model_dir(tmp_path, tiny_model):
    """A MODEL_DIR with the tiny model as step 3, trained without the label prompt."""
    m = tiny_model
    write_model_files(tmp_path, ModelFiles(m.config, m.tokenizer, dict(m.feature_lengths), label_prompt=False))
    state = TrainState(step=np.int32(3), params=m.params, opt_state={}, history={})
    with CheckpointManager(tmp_path) as checkpoints:
        checkpoints.save(3, state, {"next_step": 3, "stores": {}})
    return tmp_path


def test_a_model_dir_and_its_checkpoint_load_as_they_were_written(model_dir, tiny_model):
    expected = dataclasses.replace(tiny_model, label_prompt=False)
    for path in (model_dir, model_dir / "checkpoint_3"):
        model = load_trained_model(path)
        jax.tree.map(np.testing.assert_array_equal, model.params, tiny_model.params)
        assert (model.config, model.feature_lengths) == (expected.config, expected.feature_lengths)
        assert model.label_prompt is False
        assert (model.step, model.checkpoint) == (3, model_dir / "checkpoint_3")
        assert model_digest(model) == model_digest(expected)


def test_models_from_before_the_key_have_the_label_prompt(model_dir):
    file = model_dir / "model.json"
    facts = json.loads(file.read_text())
    del facts["label_prompt"]
    file.write_text(json.dumps(facts))
    assert load_trained_model(model_dir).label_prompt is True


def test_the_digest_changes_with_what_outputs_depend_on(tiny_model):
    def changed(**fields):
        return model_digest(dataclasses.replace(tiny_model, **fields))

    other = jax.tree.map(lambda x: x, tiny_model.params)
    other["token_embedder"]["embedding"] = other["token_embedder"]["embedding"].at[5, 2].add(1e-3)
    digests = [
        model_digest(tiny_model),
        changed(params=other),
        changed(label_prompt=False),
        changed(feature_lengths={"inputs": 17}),
        changed(config=dataclasses.replace(tiny_model.config, dtype="bfloat16")),
    ]
    assert len(set(digests)) == len(digests)
    assert changed(checkpoint=None, step=9) == digests[0]


def test_nothing_there(tmp_path):
    with pytest.raises(InputError, match="is no model that medmt5 reads; it holds nothing"):
        load_trained_model(tmp_path)
