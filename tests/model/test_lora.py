"""Adapters: nothing at the start, x W + alpha / rank (x A) B later, and their gradients those of the merged kernel."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from medmt5.errors import InputError
from medmt5.model import mt5
from medmt5.model.lora import LoRA, merge_adapters
from medmt5.training import trainable

PLAIN = mt5.MT5Config(
    vocab_size=64, emb_dim=32, num_heads=2, num_encoder_layers=2, num_decoder_layers=2, head_dim=16, mlp_dim=48
)
CONFIG = dataclasses.replace(PLAIN, lora=LoRA(rank=4, alpha=6.0))
ADAPTERS = trainable.ADAPTERS_ALONE
BATCH = {
    name: np.random.default_rng(0).integers(1, 64, (3, length)).astype(np.int32)
    for name, length in (("encoder_input_tokens", 7), ("decoder_input_tokens", 5))
}


@partial(jax.jit, static_argnums=0)
def logits(config, params):
    hidden = mt5.MT5(config).apply({"params": params}, BATCH)
    return hidden @ mt5.output_kernel(params)


def names_of(tree):
    return ["/".join(key.key for key in path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]


@pytest.fixture(scope="module")
def fresh():
    return nn.unbox(jax.jit(lambda key: mt5.init_params(CONFIG, key))(jax.random.key(3)))


@pytest.fixture(scope="module")
def trained(fresh):
    """As after training: B is no longer zero."""
    keys = iter(jax.random.split(jax.random.key(4), 100))
    return jax.tree_util.tree_map_with_path(
        lambda path, x: x + 0.1 * jax.random.normal(next(keys), x.shape) if path[-1].key == "lora_b" else x, fresh
    )


def test_every_target_has_stacked_adapters_and_nothing_else_has(fresh):
    flat = {"/".join(k.key for k in path): x.shape for path, x in jax.tree_util.tree_leaves_with_path(fresh)}
    adapters = {name: shape for name, shape in flat.items() if "lora" in name}
    assert len(adapters) == 2 * (4 + 3 + 8 + 3)
    assert adapters["encoder/layers/mlp/wi_0/lora_a"] == (2, 32, 4)
    assert adapters["decoder/layers/encoder_decoder_attention/out/lora_b"] == (2, 4, 32)
    plain = jax.eval_shape(lambda: nn.unbox(mt5.init_params(PLAIN, jax.random.key(0))))
    assert set(flat) - set(adapters) == set(names_of(plain))
    some = dataclasses.replace(PLAIN, lora=LoRA(rank=2, targets=["query", "wo"]))
    shapes = jax.eval_shape(lambda: nn.unbox(mt5.init_params(some, jax.random.key(0))))
    names = {path[-2].key for path, _ in jax.tree_util.tree_leaves_with_path(shapes) if "lora" in path[-1].key}
    assert names == {"query", "wo"}


def test_fresh_adapters_change_no_bit(fresh):
    base, _ = trainable.split(fresh, frozenset(n for n in names_of(fresh) if "lora" not in n))
    np.testing.assert_array_equal(logits(CONFIG, fresh), logits(PLAIN, base))


def test_merged_computes_the_same_and_has_the_plain_models_tree(trained, fresh):
    merged = merge_adapters(trained, CONFIG.lora.alpha)
    plain = jax.eval_shape(lambda: nn.unbox(mt5.init_params(PLAIN, jax.random.key(0))))
    assert jax.tree.map(lambda x: x.shape, merged) == jax.tree.map(lambda x: x.shape, plain)
    ours, theirs = logits(CONFIG, trained), logits(PLAIN, merged)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5 * np.abs(theirs).max())
    assert np.abs(ours - logits(CONFIG, fresh)).max() > 1e-2  # the adapters do something
    assert merge_adapters(merged, 6.0) == merged or jax.tree.all(
        jax.tree.map(lambda a, b: a is b, merge_adapters(merged, 6.0), merged)
    )


def test_gradients_are_those_of_the_merged_kernel(trained):
    """By autodiff through merge_adapters, whose derivative is JAX's own."""

    def loss(config, params):
        return jnp.sum(jnp.sin(logits(config, params)))

    adapters, base = trainable.split(trained, trainable.trained_names(trained, ADAPTERS))
    through_products = jax.jit(jax.grad(lambda a: loss(CONFIG, trainable.join(a, base))))(adapters)
    merged = jax.jit(jax.grad(lambda a: loss(PLAIN, merge_adapters(trainable.join(a, base), 6.0))))
    through_merging = merged(adapters)
    for name, a, b in zip(names_of(adapters), *map(jax.tree.leaves, (through_products, through_merging)), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-4 * np.abs(b).max(), err_msg=name)
        assert np.abs(b).max() > 0, name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rank": -1}, "LORA_RANK must be a whole number, 0 for no adapters, not -1"),
        ({"rank": 2.5}, "LORA_RANK must be a whole number"),
        ({"rank": 2, "alpha": 0}, "LORA_ALPHA must be above 0"),
        ({"rank": 2, "targets": ("q", "wo")}, r"LORA_TARGETS must be some of query, .*, not \('q', 'wo'\)"),
        ({"rank": 2, "targets": ()}, "LORA_TARGETS must be some of"),
    ],
)
def test_a_wrong_setting_is_named(arguments, message):
    with pytest.raises(InputError, match=message):
        LoRA(**arguments)
