"""Every implementation of attention is held to the plain one, in values and in all gradients, the bias's too."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from medmt5 import partitioning
from medmt5.model import attention
from medmt5.model.attention import attend, drop_values
from medmt5.model.layers import RelativePositionBias, relative_position_bucket, shifted_rows
from medmt5.partitioning import Partitioning

BATCH, QUERIES, KEYS, HEADS, DIM = 8, 9, 12, 4, 16


def inputs(kind, dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(0), 5)
    q = jax.random.normal(keys[0], (BATCH, QUERIES, HEADS, DIM), dtype)
    k, v = (jax.random.normal(key, (BATCH, KEYS, HEADS, DIM), dtype) for key in keys[1:3])
    bias = jax.random.normal(keys[3], (1, HEADS, QUERIES, KEYS), jnp.float32)
    lengths = np.array([12, 7, 12, 3, 1, 12, 5, 2])
    masks = {
        "all": np.ones((1, 1, 1, KEYS), bool),
        "padding": (np.arange(KEYS) < lengths[:, None])[:, None, None],
        "causal": np.tril(np.ones((QUERIES, KEYS), bool))[None, None],
        # As packed rows have them; the last query of the first example sees nothing.
        "segments": np.array(jax.random.bernoulli(keys[4], 0.7, (BATCH, 1, QUERIES, KEYS))),
    }
    masks["segments"][0, 0, -1] = False
    masks["packed"] = masks["segments"].copy()
    masks["packed"][..., 0] = True  # a query that sees nothing has no weights in JAX's function
    return q, k, v, jnp.asarray(masks[kind]), bias


def value_and_gradients(implementation, q, k, v, mask, bias):
    def total(q, k, v, bias):
        out = attend(q, k, v, mask=mask, bias=bias, implementation=implementation)
        return jnp.sum(jnp.sin(out.astype(jnp.float32) * jnp.arange(1, DIM + 1) / DIM)), out

    arguments = (0, 1, 2) if bias is None else (0, 1, 2, 3)
    return jax.jit(jax.value_and_grad(total, arguments, has_aux=True))(q, k, v, bias)


@pytest.mark.parametrize("mask", ["all", "padding", "causal", "segments"])
@pytest.mark.parametrize("with_bias", [True, False])
def test_chunked_equals_plain_in_values_and_all_gradients(mask, with_bias):
    q, k, v, mask, bias = inputs(mask)
    bias = bias if with_bias else None
    (_, expected), expected_gradients = value_and_gradients("plain", q, k, v, mask, bias)
    (_, actual), gradients = value_and_gradients("chunked", q, k, v, mask, bias)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)
    for a, b in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_the_fused_function_of_jax_is_called_so_that_it_equals_plain(monkeypatch):
    """cuDNN needs a GPU; the call is the same with XLA's implementation of the same function."""
    fused = jax.nn.dot_product_attention
    monkeypatch.setattr(
        jax.nn, "dot_product_attention", lambda *args, **options: fused(*args, **(options | {"implementation": "xla"}))
    )
    for kind, with_bias in itertools.product(("all", "padding", "causal", "packed"), (True, False)):
        q, k, v, mask, bias = inputs(kind)
        bias = bias if with_bias else None
        (_, expected), expected_gradients = value_and_gradients("plain", q, k, v, mask, bias)
        (_, actual), gradients = value_and_gradients("cudnn", q, k, v, mask, bias)
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)
        for a, b in zip(gradients, expected_gradients, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_a_fused_attention_that_is_missing_or_wrong_is_not_chosen(monkeypatch, caplog):
    attention.cudnn_is_right.cache_clear()
    assert not attention.cudnn_is_right(), "there is no cuDNN on a CPU"
    assert "attention without cuDNN" in caplog.text

    def forgets_the_bias_gradient(q, k, v, mask, bias):
        return attention._plain(q, k, v, mask, None if bias is None else jax.lax.stop_gradient(bias))

    for wrong, right in ((forgets_the_bias_gradient, False), (attention._plain, True)):
        monkeypatch.setattr(attention, "_cudnn", wrong)
        attention.cudnn_is_right.cache_clear()
        assert attention.cudnn_is_right() is right
    attention.cudnn_is_right.cache_clear()


@pytest.mark.parametrize(
    "rules", [Partitioning(), Partitioning(num_model_partitions=4), Partitioning(num_model_partitions=2)]
)
def test_chunked_on_a_mesh_equals_plain_and_gathers_no_example(rules):
    q, k, v, mask, bias = inputs("padding")
    _, expected = value_and_gradients("plain", q, k, v, mask, bias)
    mesh = rules.make_mesh()
    with partitioning.compute_context(mesh):
        place = lambda x, *axes: jax.device_put(x, jax.NamedSharding(mesh, nn.logical_to_mesh_axes(axes)))  # noqa: E731
        q, k, v = (place(x, "batch", None, "heads", None) for x in (q, k, v))
        _, gradients = value_and_gradients("chunked", q, k, v, mask, bias)
        forward = jax.jit(lambda q, k, v: attend(q, k, v, mask=mask, bias=bias, implementation="chunked"))
        program = forward.lower(q, k, v).compile().as_text()
    assert "all-gather" not in program
    for a, b in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_dropping_a_key_s_weight_is_dropping_its_value():
    """T5X's attention dropout, its mask shared over the queries, written out on the weights."""
    q, k, v, mask, bias = inputs("padding")
    rate, rng = 0.4, jax.random.key(5)
    scores = jnp.where(mask, jnp.einsum("bqhd,bkhd->bhqk", q, k) + bias, -1e10)
    keep = jax.random.bernoulli(rng, 1 - rate, (BATCH, KEYS, HEADS, 1))[..., 0]
    weights = jax.nn.softmax(scores) * jnp.moveaxis(keep, 2, 1)[:, :, None] / (1 - rate)
    expected = jnp.einsum("bhqk,bkhd->bqhd", weights, v)
    actual = attend(q, k, drop_values(v, rate, rng), mask=mask, bias=bias)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)
    assert 0.5 < float(keep.mean()) < 0.7


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize(("queries", "keys"), [(5, 5), (3, 40), (40, 3), (1, 30)])
def test_bias_by_shifted_rows_is_the_table_looked_up_at_every_distance(bidirectional, queries, keys):
    module = RelativePositionBias(num_heads=3, bidirectional=bidirectional)
    params = nn.unbox(module.init(jax.random.key(0), 2, 2))
    distances = jnp.arange(keys)[None] - jnp.arange(queries)[:, None]

    def looked_up(table):
        return jnp.take(table, relative_position_bucket(distances, bidirectional), axis=1)[None]

    weights = jax.random.normal(jax.random.key(1), (1, 3, queries, keys))
    table = params["params"]["rel_embedding"]
    np.testing.assert_array_equal(module.apply(params, queries, keys), looked_up(table))
    ours = jax.grad(lambda p: jnp.sum(weights * module.apply(p, queries, keys)))(params)
    expected = jax.grad(lambda t: jnp.sum(weights * looked_up(t)))(table)
    np.testing.assert_allclose(ours["params"]["rel_embedding"], expected, rtol=1e-4, atol=1e-5)


def test_shifted_rows_of_a_single_key():
    assert shifted_rows(jnp.arange(3)[None], 3, 1)[0].tolist() == [[2], [1], [0]]
