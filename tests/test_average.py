"""A mean is NumPy's, is of what belongs together, and is a model like any other."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import optax
import pytest

from medmt5 import partitioning
from medmt5.average import average
from medmt5.checkpoints.adapters import make_record
from medmt5.checkpoints.manager import CheckpointManager, restore_params
from medmt5.cli import main
from medmt5.conversion.formats import open_source
from medmt5.errors import InputError
from medmt5.model import mt5
from medmt5.model.lora import LoRA, merge_adapters
from medmt5.model_files import ModelFiles, read_model_files, write_model_files
from medmt5.training import step as steps
from medmt5.training import trainable

CONFIG = mt5.MT5Config(
    vocab_size=640, emb_dim=32, num_heads=2, num_encoder_layers=1, num_decoder_layers=2, head_dim=16, mlp_dim=48
)
RULES = partitioning.Partitioning(num_devices=1)


def layout(config=CONFIG):
    """Returns (ShapeDtypeStructs, NamedShardings) of the state."""
    return steps.state_shardings(config, optax.set_to_zero(), RULES.make_mesh(), RULES)


def make_state(seed, config=CONFIG):
    """Random parameters, nothing compiled."""
    rng = np.random.default_rng(seed)
    shapes, shardings = layout(config)

    def place(shape, sharding):
        return jax.device_put(rng.normal(size=shape.shape).astype(shape.dtype), sharding)

    return jax.tree.map(place, shapes, shardings)


def save(model_dir, step, state, tokenizer, data=None, config=CONFIG):
    with CheckpointManager(model_dir) as manager:
        manager.save(step, state, {"next_step": step} | (data or {}))
    write_model_files(model_dir, ModelFiles(config, tokenizer, {"inputs": 10, "targets": 6}))
    return model_dir / f"checkpoint_{step}"


def restored(checkpoint):
    config = read_model_files(checkpoint).config
    shapes, shardings = layout(config)
    return jax.device_get(restore_params(checkpoint, shapes.params, shardings.params))


@pytest.fixture(scope="module")
def states():
    return [make_state(seed) for seed in (1, 2, 3)]


@pytest.fixture(scope="module")
def run(tmp_path_factory, tokenizer, states):
    """A MODEL_DIR of three checkpoints."""
    folder = tmp_path_factory.mktemp("average") / "run"
    for step, state in zip((10, 20, 30), states, strict=True):
        save(folder, step, state, tokenizer)
    return folder


def test_the_mean_of_the_last_two_is_numpys_and_says_of_what_it_is(run, states, tmp_path, capsys):
    assert main(["average", str(run), "--last", "2", "--output", str(tmp_path / "mean")]) == 0
    checkpoint = tmp_path / "mean" / "checkpoint_30"
    assert str(checkpoint) in capsys.readouterr().out
    a, b = (jax.device_get(state.params) for state in states[1:])
    expected = jax.tree.map(lambda x, y: np.mean([x, y], axis=0, dtype=np.float64).astype(np.float32), a, b)
    jax.tree.map(np.testing.assert_array_equal, restored(checkpoint), expected)
    data = json.loads((checkpoint / "data" / "metadata").read_text())
    assert data["mean_of"] == [str(run / "checkpoint_20"), str(run / "checkpoint_30")]
    assert [path.name for path in tmp_path.iterdir()] == ["mean"]


def test_the_mean_of_equals_is_bitwise_the_same(run, states, tmp_path):
    checkpoint = average([run / "checkpoint_20"] * 3, tmp_path / "mean")
    jax.tree.map(np.testing.assert_array_equal, restored(checkpoint), jax.device_get(states[1].params))


def test_a_mean_that_was_cut_off_is_made_anew(run, tmp_path):
    (tmp_path / ".mean.part" / "checkpoint_7" / "state").mkdir(parents=True)
    checkpoint = average([run / "checkpoint_10", run], tmp_path / "mean")
    assert sorted(path.name for path in checkpoint.parent.iterdir()) == [
        "checkpoint_30",
        "model.json",
        "vocabulary.model",
    ]


def test_what_does_not_belong_together_is_named(run, states, tokenizer, tmp_path):
    wide = dataclasses.replace(CONFIG, mlp_dim=64)
    other_shape = save(tmp_path / "wide", 10, make_state(1, wide), tokenizer, config=wide)
    with pytest.raises(
        InputError, match=r"have no mean: 6 parameters differ, first decoder/layers/mlp/wi_0/kernel: \(2, 32, 48\) and"
    ):
        average([run, other_shape], tmp_path / "mean")
    labelled = tmp_path / "labelled"
    shutil.copytree(run, labelled)
    facts = json.loads((labelled / "model.json").read_text())
    facts["vocabulary"]["labels"] = facts["vocabulary"]["labels"][:-1]
    (labelled / "model.json").write_text(json.dumps(facts))
    with pytest.raises(InputError, match=r"they differ in labels: \('Clin.*, 'Drug'\) and \('Clin.*, 'UNCLEAR'\)"):
        average([run, labelled], tmp_path / "mean")
    assert not (tmp_path / "mean").exists()


def test_what_it_is_not_given_is_asked_for(run, tmp_path):
    (tmp_path / "full").mkdir()
    cases = [
        (([run], tmp_path / "mean"), "at least two checkpoints"),
        (([run], tmp_path / "mean", 4), "--last 4, but .* has 3 checkpoints"),
        (([run], tmp_path / "mean", 1), "at least two checkpoints"),
        (([run, run], tmp_path / "mean", 2), "--last 2 is of one MODEL_DIR, not of 2"),
        (([run / "checkpoint_10"], tmp_path / "mean", 2), "--last 2 is of a MODEL_DIR, not of the checkpoint"),
        (([run, run], tmp_path / "full"), "is there already; give --output a folder that is not"),
    ]
    for arguments, message in cases:
        with pytest.raises(InputError, match=message):
            average(*arguments)


def test_damage_in_one_of_them_is_found(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    file = max((tmp_path / "run" / "checkpoint_10").rglob("d/*"), key=lambda p: p.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 16
    file.write_bytes(content)
    with pytest.raises(InputError, match="damaged"):
        average([tmp_path / "run" / "checkpoint_10", run], tmp_path / "mean")


@pytest.fixture(scope="module")
def adapted(run, states, tokenizer, tmp_path_factory):
    """A checkpoint of adapters and a trained output matrix on the run's checkpoint_10, and its merged parameters."""
    config = dataclasses.replace(CONFIG, lora=LoRA(rank=3, alpha=6.0))
    rules = ((".*/lora_[ab]", True), (mt5.OUTPUT_KERNEL, True), (".*", False))
    trained = trainable.trained_parameters(config, rules)
    state = make_state(5, config)
    own = trainable.split(state.params, trained)[0]
    params = trainable.join(own, states[0].params)
    record = make_record(run / "checkpoint_10", 6.0, trainable.split(params, trained)[1])
    folder = tmp_path_factory.mktemp("adapted") / "adapters"
    data = {"adapters": dataclasses.asdict(record)}
    checkpoint = save(folder, 5, state.replace(params=own), tokenizer, data)
    return checkpoint, jax.device_get(merge_adapters(params, 6.0))


def test_adapters_are_opened_as_the_merged_model(adapted):
    checkpoint, merged = adapted
    weights = open_source(checkpoint).weights
    flat = {
        jax.tree_util.keystr(p, simple=True, separator="/"): x for p, x in jax.tree_util.tree_leaves_with_path(merged)
    }
    assert {name: info.shape for name, info in weights.tensors().items()} == {name: x.shape for name, x in flat.items()}
    for name, expected in flat.items():
        np.testing.assert_allclose(weights.read(name), expected, rtol=1e-5, atol=1e-6, err_msg=name)
    name = "decoder/layers/mlp/wo/kernel"
    part = (slice(1, 2), slice(3, 20), slice(0, 7))
    np.testing.assert_array_equal(weights.read(name, part), weights.read(name)[part])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), restored(checkpoint), merged)


def test_the_mean_of_adapters_is_of_merged_models_and_needs_their_base(adapted, run, states, tmp_path):
    checkpoint, merged = adapted
    mean = average([checkpoint, run / "checkpoint_20"], tmp_path / "mean")
    expected = jax.tree.map(lambda x, y: (x + y) / 2, merged, jax.device_get(states[1].params))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), restored(mean), expected)
    shutil.copytree(checkpoint.parent, tmp_path / "adapters")
    file = tmp_path / "adapters" / checkpoint.name / "data" / "metadata"
    file.write_text(file.read_text().replace("checkpoint_10", "checkpoint_20"))
    with pytest.raises(
        InputError, match=r"checkpoint_20 is not the base that the adapters were trained on, .* differ, first"
    ):
        open_source(tmp_path / "adapters" / checkpoint.name)
