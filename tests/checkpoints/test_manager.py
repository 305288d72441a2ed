"""What is restored is what was saved, bit for bit, or an error: damage never passes."""

import logging
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medmt5.checkpoints.digests import tree_digests
from medmt5.checkpoints.manager import CheckpointManager, checkpoint_step, find_checkpoint, restore_params
from medmt5.errors import InputError
from medmt5.model import mt5
from medmt5.partitioning import Partitioning
from medmt5.training import optimizers, schedules
from medmt5.training import step as steps

CONFIG = mt5.MT5Config(
    vocab_size=256, emb_dim=32, num_heads=2, num_encoder_layers=1, num_decoder_layers=2, head_dim=16, mlp_dim=64
)


def make_state(rules=None, seed=1, config=CONFIG):
    rules = rules or Partitioning(num_devices=1)
    optimizer = optimizers.adafactor(schedules.constant(0.01))
    shapes, shardings = steps.state_shardings(config, optimizer, rules.make_mesh(), rules)
    return steps.create_state(config, optimizer, seed, shardings), shapes, shardings


def save(directory, *steps_and_states):
    manager = CheckpointManager(directory)
    for step, state in steps_and_states:
        manager.save(step, state, {"next_step": step})
    manager.wait()
    manager.close()


def assert_equal(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(np.asarray(x), np.asarray(y)), a, b)


def damage(checkpoint: Path) -> None:
    """Flips one bit in the middle of the largest file of array data: no checksum of TensorStore's covers it."""
    file = max((checkpoint / "d").iterdir(), key=lambda p: p.stat().st_size)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 16
    file.write_bytes(data)


def test_a_round_trip_is_bitwise_and_may_change_the_mesh(tmp_path):
    state, _, _ = make_state()
    save(tmp_path, (10, state), (20, state))
    _, shapes, shardings = make_state(Partitioning(num_model_partitions=2, shard_parameters_over_data=True))
    step, restored, data = CheckpointManager(tmp_path).restore_newest(shapes, shardings)
    assert (step, data) == (20, {"next_step": 20})
    assert_equal(restored, state)
    jax.tree.map(lambda x, s: x.sharding.is_equivalent_to(s, x.ndim) or pytest.fail(str(s)), restored, shardings)


def test_a_flipped_bit_falls_back_to_the_newest_good_step_loudly(tmp_path, caplog):
    old, shapes, shardings = make_state(seed=1)
    new, _, _ = make_state(seed=2)
    save(tmp_path, (10, old), (20, new))
    damage(tmp_path / "checkpoint_20" / "state")
    with caplog.at_level(logging.ERROR):
        step, restored, _ = CheckpointManager(tmp_path).restore_newest(shapes, shardings)
    assert step == 10
    assert_equal(restored, old)
    assert "checkpoint_20 cannot be used" in caplog.text
    assert not (tmp_path / "checkpoint_20").exists()


def test_no_good_checkpoint_is_an_error_and_none_at_all_is_a_start(tmp_path):
    state, shapes, shardings = make_state()
    assert CheckpointManager(tmp_path / "new").restore_newest(shapes, shardings) is None
    save(tmp_path, (10, state))
    damage(tmp_path / "checkpoint_10" / "state")
    with pytest.raises(InputError, match="none of the 1 checkpoints"):
        CheckpointManager(tmp_path).restore_newest(shapes, shardings)


def test_parameters_alone_are_read_and_checked(tmp_path):
    state, shapes, shardings = make_state()
    save(tmp_path, (10, state))
    assert_equal(restore_params(find_checkpoint(tmp_path), shapes.params, shardings.params), state.params)
    damage(tmp_path / "checkpoint_10" / "state")
    with pytest.raises(InputError, match="damaged"):
        restore_params(find_checkpoint(tmp_path), shapes.params, shardings.params)


def test_another_model_is_refused_with_names_and_shapes(tmp_path):
    state, _, _ = make_state()
    save(tmp_path, (10, state))
    _, shapes, shardings = make_state(config=mt5.MT5Config(**CONFIG.to_json() | {"vocab_size": 512}))
    with pytest.raises(InputError, match=r"embedding'\]: \(256, 32\) in the checkpoint, \(512, 32\) in this model"):
        restore_params(tmp_path / "checkpoint_10", shapes.params, shardings.params)


def test_the_newest_checkpoint_is_found_and_a_wrong_place_is_explained(tmp_path):
    state, _, _ = make_state()
    save(tmp_path, (9, state), (10, state))
    assert find_checkpoint(tmp_path).name == "checkpoint_10"
    assert checkpoint_step(find_checkpoint(tmp_path / "checkpoint_9")) == 9
    with pytest.raises(InputError, match="no such folder"):
        find_checkpoint(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no checkpoint_<step> in"):
        find_checkpoint(tmp_path / "empty")


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.int32])
def test_every_single_bit_and_every_swap_changes_the_digest(dtype):
    x = jnp.arange(24).reshape(4, 6).astype(dtype)
    digest = tree_digests({"x": x})["['x']"]
    raw = np.asarray(x).view(f"uint{8 * x.dtype.itemsize}")
    for place in np.ndindex(raw.shape):
        for bit in range(8 * x.dtype.itemsize):
            flipped = raw.copy()
            flipped[place] ^= raw.dtype.type(1 << bit)
            assert tree_digests({"x": jnp.asarray(flipped.view(x.dtype))})["['x']"] != digest
    swapped = np.asarray(x)[::-1]
    assert tree_digests({"x": jnp.asarray(swapped)})["['x']"] != digest
