"""The blocked vocabulary loss equals the plain one, in value and in both gradients, on any mesh, in little memory."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from medmt5.partitioning import Partitioning
from medmt5.training.losses import vocabulary_loss

BATCH, LENGTH, EMBED, VOCAB = 3, 7, 16, 50


def inputs(seed=0):
    rng = np.random.default_rng(seed)
    hidden = jnp.asarray(rng.normal(size=(BATCH, LENGTH, EMBED)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(EMBED, VOCAB)), jnp.float32)
    targets = jnp.asarray(rng.integers(0, VOCAB, (BATCH, LENGTH)), jnp.int32)
    weights = jnp.asarray(rng.integers(0, 2, (BATCH, LENGTH)), jnp.float32)
    return hidden, kernel, targets, weights


def plain_loss(hidden, kernel, targets, weights, z_loss, label_smoothing):
    logits = hidden @ kernel
    on, off = 1 - label_smoothing, label_smoothing / (VOCAB - 1)
    soft = jax.nn.one_hot(targets, VOCAB) * (on - off) + off
    entropy = -(on * np.log(on) + (VOCAB - 1) * off * np.log(off + 1e-20))
    loss = -jnp.sum(soft * jax.nn.log_softmax(logits), -1) - entropy
    return jnp.sum(weights * (loss + z_loss * jax.nn.logsumexp(logits, -1) ** 2))


@pytest.mark.parametrize("block", [(1, 1, 0), (2, 7, 3), (3, 16, 3), (7, 50, 1), (None, None, None)])
@pytest.mark.parametrize(("z_loss", "label_smoothing"), [(0.0, 0.0), (1e-2, 0.0), (1e-2, 0.1)])
def test_chunked_equals_plain_in_value_and_gradients(block, z_loss, label_smoothing):
    hidden, kernel, targets, weights = inputs()

    def chunked(hidden, kernel):
        chunks, size, kept = block
        loss = vocabulary_loss(
            hidden,
            kernel,
            targets,
            weights,
            normalizer=0.5,
            z_loss=z_loss,
            label_smoothing=label_smoothing,
            num_chunks=chunks,
            block_size=size,
            kept_blocks=kept,
        )
        return 1.5 * loss.objective

    def plain(hidden, kernel):
        return 3.0 * plain_loss(hidden, kernel, targets, weights, z_loss, label_smoothing)

    value, gradients = jax.value_and_grad(chunked, (0, 1))(hidden, kernel)
    expected, expected_gradients = jax.value_and_grad(plain, (0, 1))(hidden, kernel)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    for a, b in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_parts_add_up_and_hits_and_weights_are_counted():
    hidden, kernel, targets, weights = inputs(1)
    best = jnp.argmax(hidden @ kernel, -1)
    targets = targets.at[0].set(best[0].astype(jnp.int32))
    loss = vocabulary_loss(hidden, kernel, targets, weights, z_loss=1e-3)
    np.testing.assert_allclose(loss.total, loss.cross_entropy + loss.z_loss, rtol=1e-6)
    assert float(loss.weight) == float(weights.sum())
    assert float(loss.correct) == float(jnp.sum(weights * (best == targets)))


def test_the_forward_pass_alone_and_the_differentiated_one_agree():
    hidden, kernel, targets, weights = inputs(2)

    def total(hidden):
        return vocabulary_loss(hidden, kernel, targets, weights, z_loss=1e-3, block_size=20).objective

    np.testing.assert_allclose(total(hidden), jax.value_and_grad(total)(hidden)[0], rtol=1e-6)


@pytest.mark.parametrize("batch", [4, 64])
@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_at_mt5_s_vocabulary_temporary_memory_stays_below_256_mib_at_any_batch(batch, platform, monkeypatch):
    """By XLA's own account of the compiled program, beside arguments and gradients; nothing is run. A GPU's is the one
    for a CPU with a GPU's blocks.
    """
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    length, embed, vocab = 114, 512, 250112
    shapes = [((batch, length, embed), "float32"), ((embed, vocab), "float32")]
    shapes += [((batch, length), "int32"), ((batch, length), "float32")]

    def total(hidden, kernel, targets, weights):
        return vocabulary_loss(hidden, kernel, targets, weights, normalizer=jnp.sum(weights)).objective

    program = jax.jit(jax.value_and_grad(total, (0, 1))).lower(*(jax.ShapeDtypeStruct(*s) for s in shapes)).compile()
    assert program.memory_analysis().temp_size_in_bytes <= 256 * 2**20


@pytest.mark.parametrize(("data", "model"), [(1, 8), (2, 4)])
def test_on_a_mesh_the_vocabulary_is_never_gathered_and_nothing_changes(data, model):
    mesh = Partitioning(num_model_partitions=model, num_devices=data * model).make_mesh()
    rng = np.random.default_rng(3)
    batch, length, embed, vocab = 4, 6, 32, 8 * 300
    hidden, kernel = rng.normal(size=(batch, length, embed)), rng.normal(size=(embed, vocab))
    targets, weights = rng.integers(0, vocab, (batch, length)), rng.integers(0, 2, (batch, length))
    dtypes = (jnp.float32, jnp.float32, jnp.int32, jnp.float32)
    arguments = [jnp.asarray(x, d) for x, d in zip((hidden, kernel, targets, weights), dtypes, strict=True)]

    def total(hidden, kernel, targets, weights, batch_shards=1, vocab_shards=1, **blocks):
        return vocabulary_loss(
            hidden,
            kernel,
            targets,
            weights,
            z_loss=1e-3,
            batch_shards=batch_shards,
            vocab_shards=vocab_shards,
            **blocks,
        ).objective

    expected, expected_gradients = jax.value_and_grad(total, (0, 1))(*arguments)
    sharded = partial(total, batch_shards=data, vocab_shards=model, num_chunks=2, block_size=128, kept_blocks=1)
    specs = [P("data"), P(None, "model"), P("data"), P("data")]
    with jax.sharding.set_mesh(mesh):
        placed = [jax.device_put(x, NamedSharding(mesh, s)) for x, s in zip(arguments, specs, strict=True)]
        shardings = (None, tuple(NamedSharding(mesh, s) for s in specs[:2]))
        program = jax.jit(jax.value_and_grad(sharded, (0, 1)), out_shardings=shardings).lower(*placed).compile()
        value, gradients = program(*placed)
    text = program.as_text()
    gathered = [
        int(np.prod([int(n) for n in m.split(",")])) for m in re.findall(r"= \w+\[([\d,]+)\]\S* all-gather", text)
    ]
    assert all(size < vocab * embed // model for size in gathered), "the kernel or the logits were gathered"
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    for a, b in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
