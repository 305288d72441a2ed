"""A node of the tree holds what teacher forcing gives to its path, whatever else is in the memory."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from medmt5.decoding.token_tree import make_decoder
from medmt5.model import mt5

CONFIG = mt5.MT5Config(
    vocab_size=64, emb_dim=24, num_heads=3, num_encoder_layers=2, num_decoder_layers=3, head_dim=8, mlp_dim=40
)
BATCH, NODES, WIDTH, SLOTS = 3, 24, 4, 32


@pytest.fixture(scope="module")
def params():
    return nn.unbox(jax.jit(lambda key: mt5.init_params(CONFIG, key))(jax.random.key(0)))


@pytest.fixture(scope="module")
def inputs():
    tokens = np.random.default_rng(1).integers(2, 64, (BATCH, 9)).astype(np.int32)
    tokens[1, 5:] = 0
    return tokens


def random_trees(rng):
    """Returns tokens, positions [batch, nodes] and parents of random trees whose first node is the decoder's start."""
    tokens = rng.integers(2, 64, (BATCH, NODES)).astype(np.int32)
    tokens[:, 0] = 0
    parents = np.array([[-1, *(rng.integers(max(0, i - 5), i) for i in range(1, NODES))] for _ in range(BATCH)])
    positions = np.zeros((BATCH, NODES), np.int32)
    for i in range(1, NODES):
        positions[:, i] = positions[np.arange(BATCH), parents[:, i]] + 1
    return tokens, positions, parents


def path_to(parents, node):
    return [] if node < 0 else [*path_to(parents, parents[node]), node]


def visible_to(parents):
    """[batch, nodes, slots] bool"""
    seen = np.zeros((BATCH, NODES, SLOTS), bool)
    for row in range(BATCH):
        for node in range(NODES):
            seen[row, node, path_to(parents[row], node)] = True
    return seen


def teacher_forced(params, inputs, tokens, positions, parents, config):
    """Each node's path as an output of its own: [batch, nodes, embed]."""
    targets = np.zeros((BATCH, NODES, int(positions.max()) + 1), np.int32)
    for row in range(BATCH):
        for node in range(NODES):
            path = path_to(parents[row], node)
            targets[row, node, : len(path)] = tokens[row, path]
    batch = {
        "encoder_input_tokens": inputs.repeat(NODES, axis=0),
        "decoder_input_tokens": targets.reshape(BATCH * NODES, -1),
    }
    hidden = jax.jit(lambda p, b: mt5.MT5(config).apply({"params": p}, b))(params, batch)
    hidden = np.asarray(hidden, np.float32).reshape(BATCH, NODES, targets.shape[2], -1)
    return np.take_along_axis(hidden, positions[:, :, None, None], axis=2)[:, :, 0]


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 0.1)])
def test_nodes_equal_teacher_forcing_of_their_paths_also_after_the_memory_was_tidied(params, inputs, dtype, tolerance):
    config = dataclasses.replace(CONFIG, dtype=dtype)
    rng = np.random.default_rng(2)
    tokens, positions, parents = random_trees(rng)
    visible = visible_to(parents)
    # Halfway the slots are put in another order, one each sentence, and more are added.
    order = np.stack([rng.permutation(16) for _ in range(BATCH)])

    @jax.jit
    def decode(params, inputs):
        decoder = make_decoder(config, params, inputs, longest=NODES)
        memory, found = decoder.empty().grow(16), []
        for used in range(0, NODES, WIDTH):
            at = slice(used, used + WIDTH)
            seen = visible[:, at]
            if used == 16:
                memory = memory.keep(jnp.asarray(order)).grow(SLOTS)
            if used >= 16:
                old = np.take_along_axis(seen[:, :, :16], order[:, None], axis=2)
                seen = np.concatenate([old, seen[:, :, 16:]], axis=2)
            else:
                seen = seen[:, :, :16]
            hidden, memory = decoder.extend(memory, jnp.int32(used), tokens[:, at], positions[:, at], jnp.asarray(seen))
            found.append(hidden)
        return jnp.concatenate(found, axis=1)

    expected = teacher_forced(params, inputs, tokens, positions, parents, config)
    np.testing.assert_allclose(np.asarray(decode(params, inputs), np.float32), expected, rtol=tolerance, atol=tolerance)
