"""Packed == unpacked, from the token store to the gradients: packing changes the shape of batches, not what is learned.
Needs the 8 virtual devices of conftest.py.

The sums over an epoch are the same sums of the same products, added in another order and in rows of another length: to
float32 rounding that is 1e-5 of a loss and of an array's largest gradient, as between two meshes.
"""

import dataclasses

import jax
import numpy as np
import optax
import pytest

from medmt5 import partitioning
from medmt5.model import mt5
from medmt5.partitioning import Partitioning
from medmt5.tokens import loader
from medmt5.tokens.store import StoreWriter, TokenStore
from medmt5.training import step as steps

CONFIG = mt5.MT5Config(
    vocab_size=640, emb_dim=32, num_heads=4, num_encoder_layers=2, num_decoder_layers=2, head_dim=16, mlp_dim=64
)
ONE = Partitioning(num_devices=1)
MESHES = {"one": ONE, "data": Partitioning(), "tensor": Partitioning(num_model_partitions=4)}
SENTINEL_IDS = np.arange(599, 499, -1, dtype=np.int32)
EPOCHS = 8  # so many rows divide by the devices, whatever the rows of an epoch


@pytest.fixture(scope="module")
def store(tmp_path_factory, tokenizer):
    """21 examples of 2 to 14 and 2 to 9 tokens."""
    directory, rng = tmp_path_factory.mktemp("s") / "notes.en", np.random.default_rng(0)
    with StoreWriter(directory, task="notes.en", split="train", objective="pairs", tokenizer=tokenizer) as writer:
        for inputs, targets in zip(rng.integers(1, 14, 21), rng.integers(1, 9, 21), strict=True):
            writer.write({
                "inputs": [*rng.integers(300, 500, inputs), 1], "targets": [*rng.integers(300, 500, targets), 1],
            })  # fmt: skip
    return TokenStore(directory)


def remember_gradients():
    return optax.GradientTransformation(
        lambda params: jax.tree.map(jax.numpy.zeros_like, params), lambda gradients, _, params=None: (gradients,) * 2
    )


def batch_of_epochs(store, pack, lengths):
    """Returns the batch that holds EPOCHS whole epochs, as training gets it from the loader."""
    arguments = {"feature_lengths": lengths, "pack": pack, "seed": 0}
    rows = EPOCHS * round(1 / loader.epochs_per_step([(store, 1)], batch_size=1, **arguments)[0])
    batches = loader.make_batches([(store, 1)], batch_size=rows, sentinel_ids=SENTINEL_IDS, **arguments)
    return next(loader.iterate(batches))


def sums(batch, attention="plain", rules=ONE, num_microbatches=1):
    """Returns the metrics of a train step, all sums over the batch, and the gradients of the summed loss."""
    config, optimizer, mesh = dataclasses.replace(CONFIG, attention=attention), remember_gradients(), rules.make_mesh()
    _, shardings = steps.state_shardings(config, optimizer, mesh, rules)
    step = steps.make_train_step(
        config,
        optimizer,
        steps.Objective(z_loss=1e-3, label_smoothing=0.1, loss_normalizing_factor=1.0),
        seed=0,
        mesh=mesh,
        shardings=shardings,
        num_microbatches=num_microbatches,
    )
    state, metrics = step(
        steps.create_state(config, optimizer, 1, shardings), partitioning.put_batch(dict(batch), mesh)
    )
    return {name: float(value) for name, value in metrics.items()}, jax.device_get(state.opt_state)


@pytest.fixture(scope="module")
def one_a_row(store):
    return sums(batch_of_epochs(store, False, {"inputs": 14, "targets": 9}))


@pytest.fixture(scope="module")
def packed(store):
    batch = batch_of_epochs(store, True, {"inputs": 32, "targets": 24})
    assert batch["decoder_segment_ids"].max() >= 4
    assert len(batch["encoder_input_tokens"]) <= EPOCHS * 21 // 3
    return batch


def largest_difference(a, b) -> float:
    """Of two trees of gradients, as a share of each array's largest."""
    return max(
        float(np.abs(x - y).max() / np.abs(y).max())
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


@pytest.mark.parametrize(
    ("attention", "mesh"), [("plain", "one"), ("plain", "tensor"), ("chunked", "one"), ("chunked", "data")]
)
def test_packed_equals_unpacked_in_loss_and_gradients(one_a_row, packed, attention, mesh):
    metrics, gradients = sums(packed, attention, MESHES[mesh])
    expected_metrics, expected = one_a_row
    assert metrics == pytest.approx(expected_metrics, rel=1e-5)
    assert metrics["weight"] == expected_metrics["weight"], "target tokens"
    assert largest_difference(gradients, expected) < 1e-5


def test_packed_microbatches_equal_unpacked(one_a_row, packed):
    metrics, gradients = sums(packed, "chunked", num_microbatches=4)
    assert metrics == pytest.approx(one_a_row[0], rel=1e-5)
    assert largest_difference(gradients, one_a_row[1]) < 1e-5


def test_without_segments_examples_of_a_row_see_each_other_and_it_shows(one_a_row, packed):
    ids = {name: (packed[name] > 0).astype(np.int32) for name in ("encoder_segment_ids", "decoder_segment_ids")}
    assert largest_difference(sums({**packed, **ids})[1], one_a_row[1]) > 1e-2
