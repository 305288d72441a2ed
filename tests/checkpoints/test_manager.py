"""What is restored is what was saved, bit for bit, or an error: damage never passes."""

import asyncio
import functools
import gc
import logging
import os
import resource
import shutil
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medmt5.checkpoints import orbax_reports
from medmt5.checkpoints.digests import _leaf_digests, tree_digests
from medmt5.checkpoints.manager import CheckpointManager, SaveError, checkpoint_step, find_checkpoint, restore_params
from medmt5.errors import InputError
from medmt5.model import mt5
from medmt5.partitioning import Partitioning
from medmt5.training import optimizers, schedules
from medmt5.training import step as steps

CONFIG = mt5.MT5Config(
    vocab_size=256, emb_dim=32, num_heads=2, num_encoder_layers=1, num_decoder_layers=2, head_dim=16, mlp_dim=64
)


@functools.cache
def make_state(rules=Partitioning(num_devices=1), seed=1, config=CONFIG):  # noqa: B008
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
    assert "checkpoint_20 is kept as checkpoint_20.damaged" in caplog.text
    # It is in nobody's way: the step can be saved, and damaged, again.
    save(tmp_path, (20, new))
    damage(tmp_path / "checkpoint_20" / "state")
    assert CheckpointManager(tmp_path).restore_newest(shapes, shardings)[0] == 10
    assert {"checkpoint_10", "checkpoint_20.damaged", "checkpoint_20.damaged-2"} <= set(os.listdir(tmp_path))


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def truncate(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


@pytest.mark.parametrize("harm", [flip, truncate, Path.unlink])
def test_whatever_file_is_harmed_what_is_restored_is_a_state_that_was_saved(tmp_path, harm):
    old, shapes, shardings = make_state(seed=1)
    new, _, _ = make_state(seed=2)
    save(tmp_path / "good", (10, old), (20, new))
    checkpoint = tmp_path / "good" / "checkpoint_20"
    files = sorted(path.relative_to(checkpoint) for path in checkpoint.rglob("*") if path.is_file())
    # What TensorStore calls its files is random, so these are all the others and the largest, the arrays themselves.
    payload = max(files, key=lambda file: (checkpoint / file).stat().st_size * ("d" in file.parts))
    named = [file for file in files if file.parent.name != "d"]
    fell_back = set()
    for number, file in enumerate([payload, *named]):
        tried = tmp_path / str(number)
        shutil.copytree(tmp_path / "good", tried)
        harm(tried / "checkpoint_20" / file)
        step, restored, data = CheckpointManager(tried).restore_newest(shapes, shardings)
        assert_equal(restored, {10: old, 20: new}[step])
        assert data == {"next_step": step}
        assert (tried / "checkpoint_20.damaged").exists() == (step == 10)
        if step == 10:
            fell_back.add(str(file))
    assert {str(payload), "data/metadata", "digests/metadata", "state/manifest.ocdbt"} <= fell_back


def test_what_a_deletion_cut_short_leaves_is_no_checkpoint(tmp_path):
    old, shapes, shardings = make_state(seed=1)
    save(tmp_path, (10, old), (20, old))
    for item in ("state", "data"):
        shutil.rmtree(tmp_path / "checkpoint_20" / item)
    assert CheckpointManager(tmp_path).restore_newest(shapes, shardings)[0] == 10


def test_a_save_that_fails_in_the_background_is_told_by_the_next_check_and_the_last_good_one_stays(tmp_path):
    state, shapes, shardings = make_state()
    manager = CheckpointManager(tmp_path)
    manager.save(10, state, {"next_step": 10})
    manager.wait()
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, unlimited[1]))  # the arrays are larger: "File too large"

    def train():
        manager.save(20, state, {"next_step": 20})
        while True:
            manager.check()
            time.sleep(0.001)

    try:
        with pytest.raises(SaveError, match=r"checkpoint_20 could not be saved .* checkpoint_10 is the last good one"):
            train()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    assert CheckpointManager(tmp_path).restore_newest(shapes, shardings)[0] == 10
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint_10"}


def test_leaving_with_an_error_finishes_the_save_that_is_under_way(tmp_path):
    state, shapes, shardings = make_state()

    def train():
        with CheckpointManager(tmp_path) as manager:
            manager.save(10, state, {"next_step": 10})
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train()
    assert CheckpointManager(tmp_path).restore_newest(shapes, shardings)[0] == 10


def test_the_newest_ones_are_kept_after_a_restart_too(tmp_path):
    state, _, _ = make_state()
    for steps_ in ((1, 2), (3, 4)):
        with CheckpointManager(tmp_path, keep=2) as manager:
            for step in steps_:
                manager.save(step, state, {})
    assert {path.name for path in tmp_path.glob("checkpoint_*")} == {"checkpoint_3", "checkpoint_4"}


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
    with pytest.raises(
        InputError, match=r"token_embedder/embedding: \(256, 32\) in the checkpoint, \(512, 32\) in this model"
    ):
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


def test_digests_of_sharded_arrays_are_whole_on_every_device(tmp_path):
    """Each of several processes must be able to read them."""
    state, _, _ = make_state()
    sharded, _, _ = make_state(Partitioning(num_model_partitions=2, shard_parameters_over_data=True))
    assert any(not x.is_fully_replicated for x in jax.tree.leaves(sharded))
    assert all(x.is_fully_replicated for x in jax.tree.leaves(_leaf_digests(sharded)))
    assert tree_digests(sharded) == tree_digests(state)


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


def test_arrays_that_end_after_a_failure_print_no_traceback_and_other_errors_still_do(monkeypatch):
    heard = []
    monkeypatch.setattr(sys, "unraisablehook", heard.append)
    orbax_reports.silence_stragglers.__wrapped__()

    def told(error):
        heard.clear()
        sys.unraisablehook(SimpleNamespace(exc_value=error))
        return bool(heard)

    loop = asyncio.new_event_loop()
    loop.close()
    with pytest.raises(RuntimeError) as closed:  # what an array under way meets
        loop.call_soon_threadsafe(print)
    assert not told(closed.value)
    assert told(RuntimeError("another one"))
    assert told(ValueError("Event loop is closed"))


@pytest.mark.parametrize("silenced", [True, False])
def test_of_several_arrays_that_cannot_be_written_one_is_reported(caplog, silenced):
    async def write():
        raise OSError("no space")

    async def write_all():
        first, *_ = tasks = [asyncio.create_task(write()) for _ in range(3)]
        await asyncio.wait(tasks)
        await first

    orbax_reports.silence_stragglers()
    if not silenced:
        logging.getLogger("asyncio").removeFilter(orbax_reports._was_asked_for)
    try:
        with caplog.at_level(logging.ERROR, logger="asyncio"), pytest.raises(OSError, match="no space"):
            asyncio.run(write_all())
        gc.collect()
    finally:
        logging.getLogger("asyncio").addFilter(orbax_reports._was_asked_for)
    assert any(record.name == "asyncio" for record in caplog.records) != silenced
