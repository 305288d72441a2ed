"""mT5 against an independent reading of the paper, and against itself: padding, packing, unrolling."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from medmt5.model import mt5
from medmt5.model.layers import relative_position_bucket

CONFIG = mt5.MT5Config(
    vocab_size=96, emb_dim=32, num_heads=4, num_encoder_layers=2, num_decoder_layers=3, head_dim=8, mlp_dim=48
)


@pytest.fixture(scope="module")
def params():
    return nn.unbox(jax.jit(lambda key: mt5.init_params(CONFIG, key))(jax.random.key(0)))


def make_batch(rng, rows=3, inputs=11, targets=9):
    encoder = rng.integers(3, 90, (rows, inputs)).astype(np.int32)
    encoder[1, 6:] = 0
    decoder = rng.integers(3, 90, (rows, targets)).astype(np.int32)
    decoder[:, 0] = 0
    return {"encoder_input_tokens": encoder, "decoder_input_tokens": decoder}


@partial(jax.jit, static_argnames="config")
def apply(params, batch, config=CONFIG):
    return mt5.MT5(config).apply({"params": params}, batch)


def reference_hidden(params, inputs, targets):
    """T5 1.1 for one example without padding, written out in numpy float64 from Raffel et al. and Shazeer."""
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    h, d = CONFIG.num_heads, CONFIG.head_dim

    def norm(x, scale):
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * scale

    def attention(x, y, w, bias, mask):
        q, k, v = ((z @ w[n]["kernel"]).reshape(len(z), h, d) for z, n in ((x, "query"), (y, "key"), (y, "value")))
        scores = np.einsum("qhd,khd->hqk", q, k) + bias
        scores = np.where(mask, scores, -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        return np.einsum("hqk,khd->qhd", weights, v).reshape(len(x), h * d) @ w["out"]["kernel"]

    def mlp(x, w):
        gate = x @ w["wi_0"]["kernel"]
        gelu = 0.5 * gate * (1 + np.tanh(np.sqrt(2 / np.pi) * (gate + 0.044715 * gate**3)))
        return (gelu * (x @ w["wi_1"]["kernel"])) @ w["wo"]["kernel"]

    def bias(n, table, bidirectional):
        out = np.zeros((h, n, n))
        for q in range(n):
            for k in range(n):
                distance, buckets, first = k - q, 32, 0
                if bidirectional:
                    buckets, first, distance = 16, (16 if distance > 0 else 0), abs(distance)
                else:
                    distance = max(-distance, 0)
                exact = buckets // 2
                if distance >= exact:
                    far = exact + int(np.log(distance / exact) / np.log(128 / exact) * (buckets - exact))
                    distance = min(far, buckets - 1)
                out[:, q, k] = table[:, first + distance]
        return out

    def layer(tree, i):
        return jax.tree.map(lambda x: x[i], tree)

    x = p["token_embedder"]["embedding"][inputs]
    e = p["encoder"]
    encoder_bias = bias(len(inputs), e["relpos_bias"]["rel_embedding"], True)
    for i in range(CONFIG.num_encoder_layers):
        w = layer(e["layers"], i)
        y = norm(x, w["pre_attention_layer_norm"]["scale"])
        x = x + attention(y, y, w["attention"], encoder_bias, True)
        x = x + mlp(norm(x, w["pre_mlp_layer_norm"]["scale"]), w["mlp"])
    encoded = norm(x, e["encoder_norm"]["scale"])
    x = p["token_embedder"]["embedding"][targets]
    e = p["decoder"]
    decoder_bias = bias(len(targets), e["relpos_bias"]["rel_embedding"], False)
    causal = np.tril(np.ones((len(targets), len(targets)), bool))
    for i in range(CONFIG.num_decoder_layers):
        w = layer(e["layers"], i)
        y = norm(x, w["pre_self_attention_layer_norm"]["scale"])
        x = x + attention(y, y, w["self_attention"], decoder_bias, causal)
        y = norm(x, w["pre_cross_attention_layer_norm"]["scale"])
        x = x + attention(y, encoded, w["encoder_decoder_attention"], 0.0, True)
        x = x + mlp(norm(x, w["pre_mlp_layer_norm"]["scale"]), w["mlp"])
    return norm(x, e["decoder_norm"]["scale"])


def test_hidden_states_equal_a_plain_numpy_t5(params):
    rng = np.random.default_rng(0)
    inputs, targets = rng.integers(3, 90, 40), rng.integers(3, 90, 37)
    batch = {
        "encoder_input_tokens": inputs[None].astype(np.int32),
        "decoder_input_tokens": targets[None].astype(np.int32),
    }
    expected = reference_hidden(params, inputs, targets)
    np.testing.assert_allclose(apply(params, batch)[0], expected, rtol=1e-4, atol=1e-5)


def test_padding_of_inputs_changes_nothing(params):
    batch = make_batch(np.random.default_rng(1))
    wider = batch | {"encoder_input_tokens": np.pad(batch["encoder_input_tokens"], ((0, 0), (0, 7)))}
    np.testing.assert_allclose(apply(params, batch), apply(params, wider), rtol=1e-5, atol=1e-5)


def test_a_later_target_does_not_change_an_earlier_position(params):
    batch = make_batch(np.random.default_rng(2))
    changed = {k: v.copy() for k, v in batch.items()}
    changed["decoder_input_tokens"][:, 5] += 1
    before, after = apply(params, batch), apply(params, changed)
    np.testing.assert_array_equal(before[:, :5], after[:, :5])
    assert np.abs(before[:, 5:] - after[:, 5:]).max() > 1e-3


def test_packed_equals_unpacked(params):
    rng = np.random.default_rng(3)
    lengths = [(5, 4), (6, 3), (4, 5)]
    singles = [(rng.integers(3, 90, i), rng.integers(3, 90, t)) for i, t in lengths]

    def pack(which):
        return np.concatenate([s[which] for s in singles])[None].astype(np.int32)

    def segments(which):
        return np.concatenate([np.full(n[which], k + 1) for k, n in enumerate(lengths)])[None].astype(np.int32)

    packed = {
        "encoder_input_tokens": pack(0),
        "decoder_input_tokens": pack(1),
        "encoder_segment_ids": segments(0),
        "decoder_segment_ids": segments(1),
    }
    hidden = apply(params, packed)[0]
    start = 0
    for inputs, targets in singles:
        alone = {
            "encoder_input_tokens": inputs[None].astype(np.int32),
            "decoder_input_tokens": targets[None].astype(np.int32),
        }
        np.testing.assert_allclose(hidden[start : start + len(targets)], apply(params, alone)[0], rtol=1e-4, atol=1e-5)
        start += len(targets)


@partial(jax.jit, static_argnums=(1, 2))
def value_and_gradients(params, config, deterministic):
    def loss(params):
        batch, rngs = make_batch(np.random.default_rng(5)), {"dropout": jax.random.key(2)}
        hidden = mt5.MT5(config).apply({"params": params}, batch, deterministic=deterministic, rngs=rngs)
        return jnp.sum(jnp.sin(hidden))

    return jax.value_and_grad(loss)(params)


def assert_near(actual, expected):
    """To 1e-5 of each array's largest value."""
    for a, b in zip(*map(jax.tree.leaves, (actual, expected)), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(b).max())


def test_unrolled_layers_compute_the_same_values_and_gradients(params):
    unrolled = dataclasses.replace(CONFIG, scan_layers=False)
    assert_near(value_and_gradients(params, unrolled, True), value_and_gradients(params, CONFIG, True))


@pytest.mark.parametrize("policy", sorted(set(mt5.REMAT_POLICIES) - {"none"}))
def test_rematerialised_layers_compute_the_same_values_and_gradients(params, policy):
    """Dropout on: what is computed again must draw the same mask."""
    noisy = dataclasses.replace(CONFIG, dropout_rate=0.1)
    policed = dataclasses.replace(noisy, remat_policy=policy)
    assert_near(value_and_gradients(params, policed, False), value_and_gradients(params, noisy, False))


def test_bfloat16_computes_in_bfloat16_and_stays_near(params):
    batch = make_batch(np.random.default_rng(6))
    config = dataclasses.replace(CONFIG, dtype="bfloat16")
    hidden = apply(params, batch, config)
    assert hidden.dtype == jnp.bfloat16
    assert np.corrcoef(np.asarray(hidden, np.float32).ravel(), np.ravel(apply(params, batch)))[0, 1] > 0.99


def test_dropout_is_drawn_only_in_training(params):
    config = dataclasses.replace(CONFIG, dropout_rate=0.5)
    batch = make_batch(np.random.default_rng(7))
    model = mt5.MT5(config)
    np.testing.assert_array_equal(apply(params, batch), apply(params, batch, config))
    draw = jax.jit(lambda p, key: model.apply({"params": p}, batch, deterministic=False, rngs={"dropout": key}))
    noisy = draw(params, jax.random.key(1))
    assert np.abs(np.asarray(noisy) - apply(params, batch)).max() > 0.1


def test_buckets_are_exact_near_logarithmic_far_and_signed():
    distance = jnp.array([-200, -128, -9, -8, -7, -1, 0, 1, 7, 8, 200])
    both = relative_position_bucket(distance, bidirectional=True)
    assert both.tolist() == [15, 15, 8, 8, 7, 1, 0, 17, 23, 24, 31]
    past = relative_position_bucket(distance, bidirectional=False)
    assert past.tolist() == [31, 31, 9, 8, 7, 1, 0, 0, 0, 0, 0]


def test_an_unknown_dtype_is_refused():
    with pytest.raises(ValueError, match="'float32' or 'bfloat16', not 'fp16'"):
        dataclasses.replace(CONFIG, dtype="fp16")
