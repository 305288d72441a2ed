"""A checkpoint written block by block is what the manager restores, and the other way round; damage is noticed."""

import jax
import numpy as np
import pytest

from medmt5.checkpoints.digests import block_digest, tree_digests
from medmt5.checkpoints.manager import CheckpointManager, restore_params
from medmt5.conversion import checkpoint as module
from medmt5.conversion.checkpoint import CheckpointWeights, chunk_shape, grid, open_checkpoint, write_checkpoint
from medmt5.conversion.parameters import as_tree, by_name
from medmt5.errors import InputError


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(module, "CHUNK_BYTES", 9000)


def restore(checkpoint, weights):
    tree = as_tree(dict(weights))
    one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)
    return by_name(restore_params(checkpoint, shapes, jax.tree.map(lambda _: one, tree)))


def assert_equal(actual, weights):
    assert actual.keys() == weights.keys()
    for name, array in weights.items():
        assert np.asarray(actual[name]).tobytes() == array.tobytes(), name


def test_the_manager_restores_what_was_written_in_blocks(tmp_path, weights, small_chunks):
    counted = []
    write_checkpoint(tmp_path / "checkpoint_0", weights, counted.append)
    assert sum(counted) == sum(array.size for array in weights.values())
    assert max(counted) * 4 <= 9000
    assert_equal(restore(tmp_path / "checkpoint_0", weights), weights)


def test_what_the_manager_saves_is_read_whole_and_in_part(tmp_path, weights):
    with CheckpointManager(tmp_path) as manager:
        manager.save(3, {"params": as_tree({name: jax.numpy.asarray(x) for name, x in weights.items()})}, {})
    opened = CheckpointWeights(tmp_path / "checkpoint_3")
    assert opened.tensors() == weights.tensors()
    assert_equal({name: opened.read(name) for name in weights}, weights)
    part = (slice(1, 3), slice(None), slice(5, 20))
    name = "decoder/layers/mlp/wi_0/kernel"
    np.testing.assert_array_equal(opened.read(name, part), weights[name][part])


def test_damage_is_named(tmp_path, weights, small_chunks):
    write_checkpoint(tmp_path / "checkpoint_0", weights, lambda count: None)
    open_checkpoint(tmp_path / "checkpoint_0")
    digests = tmp_path / "checkpoint_0/digests/metadata"
    digests.write_text(digests.read_text().replace("['encoder_norm']", "['another_norm']"))
    with pytest.raises(InputError, match=r"1 of 29 parameters differ from what was saved(.|\n)*encoder_norm/scale"):
        open_checkpoint(tmp_path / "checkpoint_0")


def test_a_flipped_bit_is_noticed(tmp_path, weights):
    write_checkpoint(tmp_path / "checkpoint_0", weights, lambda count: None)
    file = max((tmp_path / "checkpoint_0/state/d").iterdir(), key=lambda path: path.stat().st_size)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 16
    file.write_bytes(data)
    with pytest.raises(InputError, match=r"damaged"):
        open_checkpoint(tmp_path / "checkpoint_0")


def test_digests_of_blocks_add_up_to_the_digest_on_the_device():
    array = np.random.default_rng(0).normal(size=(5, 7, 3)).astype(np.float32)
    for chunks in ((5, 7, 3), (2, 7, 3), (1, 3, 2)):
        total = sum(block_digest(array[at], [part.start for part in at]) for at in grid(array.shape, chunks))
        assert total % 2**32 == tree_digests({"x": jax.numpy.asarray(array)})["['x']"]


def test_chunks_are_contiguous_and_small():
    assert chunk_shape((250112, 1024), 4) == [8192, 1024]
    assert chunk_shape((24, 4096, 10240), 4) == [1, 819, 10240]
    assert chunk_shape((24, 1024, 1024), 4) == [8, 1024, 1024]
    assert chunk_shape((), 4) == []
