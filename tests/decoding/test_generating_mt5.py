"""Free decoding of an mT5: what teacher forcing gives, alike in any batch, padding and mesh."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from scipy.special import log_softmax

from medmt5 import partitioning
from medmt5.decoding import generation
from medmt5.decoding.token_tree import make_decoder
from medmt5.model import mt5
from medmt5.partitioning import Partitioning

EOS = 1
CONFIG = mt5.MT5Config(
    vocab_size=24,
    emb_dim=16,
    num_heads=4,
    num_encoder_layers=1,
    num_decoder_layers=2,
    head_dim=4,
    mlp_dim=16,
    attention="plain",  # compiles faster
)
STEPS = 7


@pytest.fixture(scope="module")
def boxed():
    """Parameters that write EOS now and then."""
    params = jax.jit(lambda key: mt5.init_params(CONFIG, key))(jax.random.key(0))
    params["decoder"]["logits_dense"]["kernel"] = jax.tree.map(
        lambda kernel: kernel.at[:, EOS].multiply(2), params["decoder"]["logits_dense"]["kernel"]
    )
    return params


@pytest.fixture(scope="module")
def inputs():
    tokens = np.random.default_rng(2).integers(2, 16, (8, 12)).astype(np.int32)
    for row in range(8):
        tokens[row, 4 + row :] = 0
    return tokens


def seeds_of(inputs):
    """Seeds go by the input, whatever its batch."""
    return jnp.sum(inputs, axis=1).astype(jnp.uint32)


def decoders(mesh):
    """name -> (params, inputs, num_steps) -> Generated."""
    sampler = generation.make_sampler(CONFIG, mesh, top_p=0.9)
    return {
        "greedy": generation.make_generator(CONFIG, mesh),
        "beam": generation.make_generator(CONFIG, mesh, beam_size=3),
        "sample": lambda params, inputs, num_steps: sampler(params, inputs, seeds_of(inputs), num_steps),
    }


@pytest.fixture(scope="module")
def unsharded(boxed, inputs):
    mesh = Partitioning(num_devices=1).make_mesh()
    return {name: jax.device_get(decode(nn.unbox(boxed), inputs, STEPS)) for name, decode in decoders(mesh).items()}


@jax.jit
def teacher_force(params, batch):
    return mt5.MT5(CONFIG).apply({"params": params}, batch)


@pytest.mark.parametrize("name", ["greedy", "beam", "sample"])
def test_what_the_tree_gives_is_what_teacher_forcing_gives(boxed, inputs, unsharded, name):
    found, params = unsharded[name], nn.unbox(boxed)
    rows, size = found.tokens.shape[:2]
    targets = found.tokens.reshape(rows * size, STEPS)
    batch = {
        "encoder_input_tokens": inputs.repeat(size, axis=0),
        "decoder_input_tokens": np.pad(targets[:, :-1], ((0, 0), (1, 0))),
    }
    hidden = teacher_force(params, batch)
    log_probs = log_softmax(np.asarray(hidden, np.float64) @ np.asarray(mt5.output_kernel(params)), axis=-1)
    ended = 0
    for row, length in enumerate(found.lengths.reshape(-1)):
        at = np.arange(length)
        if name == "greedy":
            np.testing.assert_array_equal(targets[row, :length], np.argmax(log_probs[row, :length], axis=-1))
        assert log_probs[row, at, targets[row, :length]].sum() == pytest.approx(
            found.log_probs.reshape(-1)[row], abs=1e-4
        )
        ended += length < STEPS
    assert ended, "the case where EOS is written"
    assert len(np.unique(targets, axis=0)) > 3


def test_a_row_is_decoded_alike_in_any_batch_and_padding(boxed, inputs, unsharded):
    rows = np.array([5, 2])
    decode = decoders(Partitioning(num_devices=1).make_mesh())["sample"]
    other = decode(nn.unbox(boxed), np.pad(inputs[rows], ((0, 0), (0, 5))), STEPS + 3)
    for row, tokens, length in zip(rows, other.tokens[:, 0], other.lengths[:, 0], strict=True):
        np.testing.assert_array_equal(unsharded["sample"].tokens[row, 0], tokens[:STEPS])
        assert unsharded["sample"].lengths[row, 0] == min(length, STEPS)


@pytest.mark.parametrize("name", ["beam", "sample"])
def test_sharding_changes_no_answer_and_gathers_neither_cache_nor_logits(boxed, inputs, unsharded, name):
    rules = Partitioning(num_model_partitions=2)
    mesh = rules.make_mesh()
    params = jax.device_put(nn.unbox(boxed), partitioning.parameter_shardings(boxed, mesh, rules))
    rows = jax.device_put(inputs, partitioning.batch_sharding(mesh))
    beam_size = unsharded[name].tokens.shape[1]

    def decode(params, rows):
        decoder = make_decoder(CONFIG, params, rows, longest=STEPS)
        steps = decoder.extend, decoder.empty()
        kernel = mt5.output_kernel(params)
        if name == "sample":
            return generation.sample_tokens(*steps, kernel, seeds_of(rows), num_steps=STEPS, top_p=0.9, temperature=1.0)
        return generation.search_tokens(
            *steps, kernel, batch=8, beam_size=beam_size, num_steps=STEPS, normalize_length=True
        )

    with partitioning.compute_context(mesh):
        program = jax.jit(decode).lower(params, rows).compile()
        together = program(params, rows)
    np.testing.assert_array_equal(unsharded[name].tokens, together.tokens)
    np.testing.assert_allclose(unsharded[name].log_probs, together.log_probs, rtol=1e-4)
    assert together.decoder_passes == unsharded[name].decoder_passes
    assert together.tokens.sharding.spec[0] == "data"
    text, slots = program.as_text(), beam_size * STEPS
    assert f"f32[2,2,4,{slots}]" in text, "keys of a quarter of the rows and half of the heads"
    assert f"f32[2,2,{slots},4]" in text, "values"
    for rows, heads in ((8, 2), (2, 4), (8, 4)):
        assert f"f32[{rows},{heads},4,{slots}]" not in text
        assert f"f32[{rows},{heads},{slots},4]" not in text
    assert f"f32[2,{beam_size},12]" in text, "the logits of a quarter of the rows and half of the vocabulary"
    assert f"f32[2,{beam_size},24]" not in text
    assert f"f32[8,{beam_size}," not in text


@pytest.mark.parametrize("model", [1, 2, 8])
def test_the_likeliest_tokens_are_the_same_on_any_mesh_ties_and_small_parts_included(model):
    log_probs = np.random.default_rng(3).integers(-9, 0, (8, 2, 24)).astype(np.float32)
    expected = np.argsort(-log_probs, axis=-1, stable=True)[..., :5]
    with partitioning.compute_context(Partitioning(num_model_partitions=model).make_mesh()):
        ids, values = jax.jit(partial(generation._likeliest, count=5))(log_probs)
    np.testing.assert_array_equal(ids, expected)
    np.testing.assert_array_equal(values, np.take_along_axis(log_probs, expected, axis=-1))
