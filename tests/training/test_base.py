"""A run of adapters, seen from outside: what its checkpoints hold, and that it goes on as if it had never stopped."""

import json
import shutil
from functools import partial
from pathlib import Path

import jax
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

from medmt5 import partitioning, train
from medmt5.checkpoints.manager import find_checkpoint, restore_params
from medmt5.cli import main
from medmt5.conversion.formats import open_source
from medmt5.conversion.parameters import by_name
from medmt5.errors import InputError
from medmt5.model.lora import merge_adapters
from medmt5.model_files import read_model_files
from medmt5.training import step as steps
from medmt5.training.metrics_log import read_metrics


@pytest.fixture(scope="module")
def experiment(experiment):
    """Returns make(model_dir, **macros) -> Experiment of 4 steps that learn fast."""
    return partial(
        experiment, TRAIN_STEPS=4, EVAL_STEPS=1, CHECKPOINT_PERIOD=2, CHECKPOINTS_TO_KEEP=None, LEARNING_RATE=0.1
    )


@pytest.fixture(scope="module")
def base(experiment):
    """MODEL_DIR of a whole model, trained a little."""
    e = experiment("base", TRAIN_STEPS=2)
    train.train(e)
    return Path(e.model_dir)


@pytest.fixture(scope="module")
def adapted(experiment, base):
    """Returns (make(model_dir, **macros) of a run of adapters on `base`, its MODEL_DIR, its last state)."""

    def make(model_dir, **macros):
        return experiment(model_dir, **{"INITIAL_CHECKPOINT_PATH": repr(str(base)), "LORA_RANK": 2} | macros)

    e = make("adapters")
    state = train.train(e)
    return make, Path(e.model_dir), jax.device_get(state)


def stored(checkpoint):
    """Returns path -> array of a checkpoint's state, read without our code."""
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        tree = reader.restore(checkpoint / "state")
    return {jax.tree_util.keystr(path): np.asarray(x) for path, x in jax.tree_util.tree_leaves_with_path(tree)}


def plain_params(checkpoint):
    """Returns a checkpoint's parameters as labelling reads them."""
    files, rules = read_model_files(checkpoint), partitioning.Partitioning(num_devices=1)
    shapes, shardings = steps.state_shardings(files.config, optax.set_to_zero(), rules.make_mesh(), rules)
    return jax.device_get(restore_params(checkpoint, shapes.params, shardings.params))


def assert_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_its_checkpoints_hold_adapters_their_optimizer_state_and_where_the_base_is(adapted, base):
    _, model_dir, _ = adapted
    arrays = stored(model_dir / "checkpoint_4")
    params = [name for name in arrays if name.startswith("['params']")]
    assert len(params) == 2 * (4 + 3 + 8 + 3)
    assert all("lora_" in name for name in params)
    assert not any("embedding" in name or "logits_dense" in name or "'kernel'" in name for name in arrays)
    data = json.loads((model_dir / "checkpoint_4" / "data" / "metadata").read_text())
    assert data["adapters"]["base"] == str(base / "checkpoint_2")
    assert "lora" not in json.loads((model_dir / "model.json").read_text())["model"]


def test_the_base_keeps_its_bits_and_the_first_loss_is_the_bases_last(adapted, base):
    _, model_dir, state = adapted
    of_base = {name: x for name, x in stored(base / "checkpoint_2").items() if name.startswith("['params']")}
    ours = {"['params']" + jax.tree_util.keystr(p): x for p, x in jax.tree_util.tree_leaves_with_path(state.params)}
    for name, array in of_base.items():
        np.testing.assert_array_equal(ours[name], array, err_msg=name)
    assert all(np.any(x) for name, x in ours.items() if "lora_b" in name)
    [*_, last] = [line["eval_loss"] for line in read_metrics(base / "metrics.jsonl") if "eval_loss" in line]
    first, *_ = [line["eval_loss"] for line in read_metrics(model_dir / "metrics.jsonl") if "eval_loss" in line]
    assert first == pytest.approx(last, rel=1e-6)


def test_resumed_is_never_stopped(adapted, experiment):
    make, model_dir, state = adapted
    e = make("resumed")
    shutil.copytree(model_dir, e.model_dir)
    shutil.rmtree(Path(e.model_dir) / "checkpoint_4")
    assert_equal(jax.device_get(train.train(e)), state)


def test_what_is_read_is_merged(adapted):
    _, model_dir, state = adapted
    merged = jax.device_get(merge_adapters(state.params, 16.0))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), plain_params(model_dir / "checkpoint_4"), merged
    )


@pytest.mark.parametrize("format", ["medmt5", "huggingface"])
def test_what_goes_out_is_merged_and_needs_no_base(adapted, tmp_path, format):
    _, model_dir, state = adapted
    assert main(["convert", str(model_dir), str(tmp_path / "out"), "--format", format]) == 0
    written = open_source(tmp_path / "out").weights
    for name, expected in by_name(jax.device_get(merge_adapters(state.params, 16.0))).items():
        np.testing.assert_allclose(written.read(name), expected, rtol=1e-6, atol=1e-8, err_msg=name)
    assert not any("lora" in name for name in written.tensors())


def test_adapters_serve_as_a_base_too(adapted, experiment):
    make, model_dir, _ = adapted
    e = make("second", INITIAL_CHECKPOINT_PATH=repr(str(model_dir)), TRAIN_STEPS=1)
    train.train(e)
    first, second = plain_params(model_dir / "checkpoint_4"), plain_params(Path(e.model_dir) / "checkpoint_0")
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b), first, second)


def test_a_changed_base_and_another_alpha_are_refused(adapted, base, tmp_path):
    make, model_dir, _ = adapted
    with pytest.raises(InputError, match=r"the run was started with LORA_ALPHA = 16.0, not 8.0; set it to that"):
        train.train(make("adapters", LORA_ALPHA=8.0, TRAIN_STEPS=6))
    with pytest.raises(
        InputError,
        match=r"base/checkpoint_0 is not the base that the adapters were trained on, .*checkpoint_2 as it was",
    ):
        train.train(make("adapters", INITIAL_CHECKPOINT_PATH=repr(str(base / "checkpoint_0")), TRAIN_STEPS=6))
    with pytest.raises(InputError, match="LORA_RANK = 2 needs INITIAL_CHECKPOINT_PATH"):
        train.train(make("fresh", INITIAL_CHECKPOINT_PATH=None))
    base.rename(base.with_name("elsewhere"))
    try:
        with pytest.raises(InputError, match=r"holds adapters of the base .*checkpoint_2, which is not there"):
            plain_params(find_checkpoint(model_dir))
    finally:
        base.with_name("elsewhere").rename(base)
