"""The chunked vocabulary loss equals the plain one, in value and in both gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

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
