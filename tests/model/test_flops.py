"""The counted FLOPs are those of the compiled program's products, and of the published formula."""

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn

from medmt5.model import mt5
from medmt5.model.flops import forward_flops, train_step_flops
from medmt5.model.lora import LoRA
from medmt5.training import trainable

LARGE = mt5.MT5Config(
    vocab_size=250112,
    emb_dim=1024,
    num_heads=16,
    num_encoder_layers=24,
    num_decoder_layers=24,
    head_dim=64,
    mlp_dim=2816,
)


def test_a_forward_pass_counts_what_xla_counts():
    """XLA counts element-wise work too, so a shape is taken where that is little: wide layers, short sequences."""
    config = mt5.MT5Config(
        vocab_size=1024,
        emb_dim=512,
        num_heads=8,
        num_encoder_layers=2,
        num_decoder_layers=3,
        head_dim=64,
        mlp_dim=1024,
        scan_layers=False,
    )
    batch = {
        name: jax.ShapeDtypeStruct((2, length), "int32")
        for name, length in (("encoder_input_tokens", 64), ("decoder_input_tokens", 32))
    }
    params = jax.eval_shape(
        lambda: jax.tree.map(
            lambda box: box.value, mt5.init_params(config, jax.random.key(0)), is_leaf=lambda x: hasattr(x, "names")
        )
    )

    def forward(params, batch):
        return mt5.MT5(config).apply({"params": params}, batch) @ mt5.output_kernel(params)

    counted = jax.jit(forward).lower(params, batch).cost_analysis()["flops"]
    assert counted == pytest.approx(2 * forward_flops(config, 64, 32), rel=0.03)


def test_a_train_step_is_three_forward_passes_an_example():
    assert train_step_flops(LARGE, 4, 1024, 229) == 12 * forward_flops(LARGE, 1024, 229)


def test_mt5_large_needs_what_is_published_for_it():
    """At 100 % of an H100's 989 TFLOP/s mT5-large at 1024/229 would read about 295 k input tokens a second."""
    examples_per_second = 989e12 / train_step_flops(LARGE, 1, 1024, 229)
    assert examples_per_second * 1024 == pytest.approx(295e3, rel=0.01)


EMBEDDING_TOO = ((".*/lora_[ab]", True), ("token_embedder/.*", True), (".*", False))


@pytest.mark.parametrize(
    ("rules", "lora"),
    [
        ((("decoder/.*", True), (".*", False)), LoRA()),
        ((("token_embedder/.*", True), (".*", False)), LoRA()),
        (EMBEDDING_TOO, LoRA(rank=64, targets=("query", "wo"))),
    ],
)
def test_what_is_frozen_costs_what_xla_leaves_of_it(rules, lora):
    config = mt5.MT5Config(
        vocab_size=512, emb_dim=512, num_heads=8, num_encoder_layers=1, num_decoder_layers=1, head_dim=64,
        mlp_dim=1024, scan_layers=False, attention="plain", lora=lora,
    )  # fmt: skip
    trained = trainable.trained_parameters(config, rules)
    params = jax.eval_shape(lambda: nn.unbox(mt5.init_params(config, jax.random.key(0))))
    own, frozen = trainable.split(params, trained)
    batch = {
        name: jax.ShapeDtypeStruct((2, length), "int32")
        for name, length in (("encoder_input_tokens", 64), ("decoder_input_tokens", 32))
    }

    def loss(own, frozen, batch):
        params = trainable.join(own, frozen)
        logits = mt5.MT5(config).apply({"params": params}, batch) @ mt5.output_kernel(params)
        return jnp.sum(jnp.square(logits))

    counted = jax.jit(jax.value_and_grad(loss)).lower(own, frozen, batch).compile().cost_analysis()["flops"]
    assert counted == pytest.approx(train_step_flops(config, 2, 64, 32, trained), rel=0.05)


def test_all_parameters_named_cost_what_all_cost():
    names = jax.eval_shape(lambda: mt5.init_params(LARGE, jax.random.key(0)))
    everything = frozenset(
        jax.tree_util.keystr(path, simple=True, separator="/").removesuffix("/value")
        for path, _ in jax.tree_util.tree_leaves_with_path(names)
    )
    assert train_step_flops(LARGE, 4, 1024, 229, everything) == train_step_flops(LARGE, 4, 1024, 229)
