"""Adapters whose base is a folder of Hugging Face's: read, and written, as the merged model."""

import dataclasses

import jax
import numpy as np
import optax
import pytest

from medmt5.checkpoints.adapters import make_record
from medmt5.checkpoints.manager import CheckpointManager
from medmt5.conversion.command import convert
from medmt5.conversion.formats import open_source
from medmt5.conversion.initial import load_params
from medmt5.conversion.parameters import by_name
from medmt5.errors import InputError
from medmt5.model.lora import LoRA, merge_adapters
from medmt5.model.mt5 import MT5Config
from medmt5.model_files import ModelFiles, write_model_files
from medmt5.partitioning import Partitioning
from medmt5.training import step as steps
from medmt5.training import trainable

CONFIG = MT5Config(
    vocab_size=640, emb_dim=32, num_heads=2, num_encoder_layers=1, num_decoder_layers=2, head_dim=16, mlp_dim=48
)
RULES = Partitioning(num_devices=1)


def random_state(config, seed):
    shapes, shardings = steps.state_shardings(config, optax.set_to_zero(), RULES.make_mesh(), RULES)
    rng = np.random.default_rng(seed)
    place = lambda x, s: jax.device_put(rng.normal(size=x.shape).astype(x.dtype), s)  # noqa: E731
    return jax.tree.map(place, shapes, shardings), shapes.params, shardings.params


def save(model_dir, state, tokenizer, data=None):
    with CheckpointManager(model_dir) as manager:
        manager.save(3, state, {"next_step": 3} | (data or {}))
    write_model_files(model_dir, ModelFiles(CONFIG, tokenizer, {"inputs": 10, "targets": 6}))
    return model_dir / "checkpoint_3"


@pytest.fixture(scope="module")
def adapted(tokenizer, tmp_path_factory):
    """Returns (a checkpoint of adapters on a Hugging Face folder, the merged parameters by name)."""
    folder = tmp_path_factory.mktemp("adapters")
    plain, shapes, shardings = random_state(CONFIG, 1)
    convert(save(folder / "plain", plain, tokenizer), folder / "hf", "huggingface")
    config = dataclasses.replace(CONFIG, lora=LoRA(rank=3, alpha=6.0))
    base = load_params(folder / "hf", CONFIG, tokenizer, shapes, shardings)
    trained = trainable.trained_parameters(config, None)
    state, _, _ = random_state(config, 2)
    own = trainable.split(state.params, trained)[0]
    params = trainable.join(own, base)
    record = make_record(folder / "hf", 6.0, base)
    data = {"adapters": dataclasses.asdict(record)}
    checkpoint = save(folder / "adapters", state.replace(params=own), tokenizer, data)
    return checkpoint, by_name(jax.device_get(merge_adapters(params, 6.0)))


def test_they_are_read_into_shards_and_a_tensor_at_a_time(adapted, tokenizer):
    checkpoint, merged = adapted
    _, shapes, shardings = random_state(CONFIG, 1)
    params = by_name(load_params(checkpoint.parent, CONFIG, tokenizer, shapes, shardings))
    weights = open_source(checkpoint).weights
    for name, expected in merged.items():
        np.testing.assert_allclose(params[name], expected, rtol=1e-5, atol=1e-6, err_msg=name)
        np.testing.assert_allclose(weights.read(name), expected, rtol=1e-5, atol=1e-6, err_msg=name)


def test_they_go_out_merged_and_not_on_another_base(adapted, tokenizer, tmp_path):
    checkpoint, merged = adapted
    convert(checkpoint, tmp_path / "out", "huggingface")
    _, shapes, shardings = random_state(CONFIG, 1)
    params = by_name(load_params(tmp_path / "out", CONFIG, tokenizer, shapes, shardings))
    for name, expected in merged.items():
        np.testing.assert_allclose(params[name], expected, rtol=1e-5, atol=1e-6, err_msg=name)
    convert(checkpoint, tmp_path / "merged", "medmt5")
    ours = open_source(tmp_path / "merged").weights
    for name, expected in merged.items():
        np.testing.assert_allclose(ours.read(name), expected, rtol=1e-5, atol=1e-6, err_msg=name)
    base = checkpoint.parent.parent / "hf"
    base.rename(base.with_name("kept"))
    try:
        (tmp_path / "out").rename(base)
        with pytest.raises(InputError, match=r"hf is not the base that the adapters were trained on"):
            open_source(checkpoint)
    finally:
        base.rename(tmp_path / "out")
        base.with_name("kept").rename(base)
