"""mT5: encoder and decoder stacks, scanned over layers; encoding and teacher-forced decoding. What searches write token
by token goes through `decoding.token_tree`, with the same weights.

The model ends at the decoder's last hidden states. Logits over 250,112 rows are the loss's and the search's business:
both take the output kernel, `output_kernel(params)` [embed, vocab], and never hold more of the logits than they must.
Layers are stacked on axis 0 of their parameters whether they are scanned or unrolled, so `scan_layers` changes speed,
never a checkpoint.
"""

from __future__ import annotations

import dataclasses
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from medmt5.model.attention import IMPLEMENTATIONS, Attention
from medmt5.model.layers import PRODUCT, GatedMLP, Kernel, RelativePositionBias, RMSNorm, dropout, named
from medmt5.model.lora import NO_LORA, LoRA


def _is_fused_attention(primitive: Any, *_: Any, **__: Any) -> bool:
    """cuDNN's kernel: its results are small beside what it costs to run it again."""
    return primitive.name == "dot_product_attention_fwd_wrapper"


REMAT_POLICIES = {
    "none": None,
    "minimal": jax.checkpoint_policies.save_from_both_policies(
        jax.checkpoint_policies.save_only_these_names(PRODUCT), _is_fused_attention
    ),
    "full": jax.checkpoint_policies.nothing_saveable,
}


@dataclasses.dataclass(frozen=True)
class MT5Config:
    """The shape of an mT5 and how it computes.

    `vocab_size` counts rows of the embedding and output matrices (250,112 for the public mT5), not pieces.
    `remat_policy` is what the
    backward pass recomputes: "none", "minimal" (all but the matrix products) or "full". `attention` is one of
    `attention.IMPLEMENTATIONS`. `lora` adds adapters to train; a model that is used has none, they are merged.
    """

    vocab_size: int
    emb_dim: int
    num_heads: int
    num_encoder_layers: int
    num_decoder_layers: int
    head_dim: int
    mlp_dim: int
    dropout_rate: float = 0.0
    dtype: str = "float32"
    scan_layers: bool = True
    remat_policy: str = "none"
    attention: str = "auto"
    lora: LoRA = NO_LORA

    def __post_init__(self):
        if self.dtype not in ("float32", "bfloat16"):
            raise ValueError(f"MT5Config.dtype is the compute type, 'float32' or 'bfloat16', not {self.dtype!r}")
        if self.remat_policy not in REMAT_POLICIES:
            raise ValueError(f"MT5Config.remat_policy must be one of {list(REMAT_POLICIES)}, not {self.remat_policy!r}")
        if self.attention not in IMPLEMENTATIONS:
            raise ValueError(f"MT5Config.attention must be one of {list(IMPLEMENTATIONS)}, not {self.attention!r}")

    def to_json(self) -> dict[str, Any]:
        """Returns the shape of the model that is used, so without adapters."""
        return {name: value for name, value in dataclasses.asdict(self).items() if name != "lora"}


class EncoderLayer(nn.Module):
    config: MT5Config
    deterministic: bool

    @nn.compact
    def __call__(self, x: jax.Array, bias: jax.Array, mask: jax.Array) -> tuple[jax.Array, None]:
        c, dtype = self.config, jnp.dtype(self.config.dtype)
        x = nn.with_logical_constraint(x, ("batch", "length", "embed"))
        y = RMSNorm(dtype, name="pre_attention_layer_norm")(x)
        y = Attention(c.num_heads, c.head_dim, c.dropout_rate, dtype, c.attention, c.lora, name="attention")(
            y, y, mask=mask, bias=bias, deterministic=self.deterministic
        )
        x = x + dropout(c.dropout_rate)(y, self.deterministic)
        y = RMSNorm(dtype, name="pre_mlp_layer_norm")(x)
        y = GatedMLP(c.mlp_dim, c.dropout_rate, dtype, c.lora, name="mlp")(y, self.deterministic)
        return x + dropout(c.dropout_rate)(y, self.deterministic), None


class DecoderLayer(nn.Module):
    config: MT5Config
    deterministic: bool

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        bias: jax.Array,
        mask: jax.Array,
        encoded: jax.Array,
        encoded_mask: jax.Array,
    ) -> tuple[jax.Array, None]:
        c, dtype = self.config, jnp.dtype(self.config.dtype)
        x = nn.with_logical_constraint(x, ("batch", "length", "embed"))
        y = RMSNorm(dtype, name="pre_self_attention_layer_norm")(x)
        y = Attention(c.num_heads, c.head_dim, c.dropout_rate, dtype, c.attention, c.lora, name="self_attention")(
            y, y, mask=mask, bias=bias, deterministic=self.deterministic
        )
        x = x + dropout(c.dropout_rate)(y, self.deterministic)
        y = RMSNorm(dtype, name="pre_cross_attention_layer_norm")(x)
        y = Attention(
            c.num_heads, c.head_dim, c.dropout_rate, dtype, c.attention, c.lora, name="encoder_decoder_attention"
        )(y, encoded, mask=encoded_mask, bias=None, deterministic=self.deterministic)
        x = x + dropout(c.dropout_rate)(y, self.deterministic)
        y = RMSNorm(dtype, name="pre_mlp_layer_norm")(x)
        y = GatedMLP(c.mlp_dim, c.dropout_rate, dtype, c.lora, name="mlp")(y, self.deterministic)
        return x + dropout(c.dropout_rate)(y, self.deterministic), None


def _stack(layer: type[nn.Module], config: MT5Config, num_layers: int, in_axes: tuple) -> Any:
    """Returns `layer` scanned `num_layers` times, its parameters stacked on axis 0 under the logical axis `layers`."""
    if config.remat_policy != "none":
        # Unrolled, XLA would see that the backward pass computes what is there already, and keep it: for mT5-large on a
        # GPU 46 GB instead of 31.
        policy, unrolled = REMAT_POLICIES[config.remat_policy], not config.scan_layers
        layer = nn.remat(layer, policy=policy, prevent_cse=unrolled)
    return nn.scan(
        layer,
        variable_axes={"params": 0},
        split_rngs={"params": True, "dropout": True},
        in_axes=in_axes,
        length=num_layers,
        unroll=1 if config.scan_layers else num_layers,
        metadata_params={nn.PARTITION_NAME: "layers"},
    )


class Encoder(nn.Module):
    config: MT5Config

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array, deterministic: bool) -> jax.Array:
        """Embedded tokens [batch, inputs, embed] and mask [batch, 1, 1 or inputs, inputs] -> [batch, inputs, embed]."""
        c = self.config
        bias = RelativePositionBias(c.num_heads, bidirectional=True, name="relpos_bias")(x.shape[1], x.shape[1])
        layers = _stack(EncoderLayer, c, c.num_encoder_layers, (nn.broadcast, nn.broadcast))
        x = dropout(c.dropout_rate)(x, deterministic)
        x, _ = layers(c, deterministic, name="layers")(x, bias, mask)
        x = RMSNorm(jnp.dtype(c.dtype), name="encoder_norm")(x)
        return dropout(c.dropout_rate)(x, deterministic)


class Decoder(nn.Module):
    config: MT5Config

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        *,
        mask: jax.Array,
        encoded: jax.Array,
        encoded_mask: jax.Array,
        deterministic: bool,
    ) -> jax.Array:
        """Embedded tokens [batch, targets, embed] -> last hidden states of that shape."""
        c = self.config
        bias = RelativePositionBias(c.num_heads, bidirectional=False, name="relpos_bias")(x.shape[1], x.shape[1])
        layers = _stack(DecoderLayer, c, c.num_decoder_layers, (nn.broadcast,) * 4)
        x = dropout(c.dropout_rate)(x, deterministic)
        x, _ = layers(c, deterministic, name="layers")(x, bias, mask, encoded, encoded_mask)
        x = RMSNorm(jnp.dtype(c.dtype), name="decoder_norm")(x)
        x = dropout(c.dropout_rate)(x, deterministic)
        if (
            self.is_initializing()
        ):  # used through output_kernel(); made here so that it belongs to the decoder, as in T5X
            initializer = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")
            Kernel(c.vocab_size, ("embed", "vocab"), initializer, name="logits_dense")(x)
        return x


class Embedding(nn.Module):
    vocab_size: int
    emb_dim: int

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Looks up [batch, length] int32 -> [batch, length, embed]: a gather, never a one-hot product."""
        table = self.param(
            "embedding", named(nn.initializers.normal(1.0), "vocab", "embed"), (self.vocab_size, self.emb_dim)
        )
        return jnp.take(table, tokens, axis=0)


class MT5(nn.Module):
    """The model. `__call__` is teacher forcing; `encode` is for search."""

    config: MT5Config

    def setup(self):
        self.token_embedder = Embedding(self.config.vocab_size, self.config.emb_dim)
        self.encoder = Encoder(self.config)
        self.decoder = Decoder(self.config)

    def __call__(self, batch: dict[str, jax.Array], *, deterministic: bool = True) -> jax.Array:
        """Returns the decoder's last hidden states, [batch, targets, embed] in the compute dtype, for a `medmt5.batch`
        batch.
        """
        inputs, targets = batch["encoder_input_tokens"], batch["decoder_input_tokens"]
        encoded = self.encode(inputs, batch.get("encoder_segment_ids"), deterministic=deterministic)
        causal = jnp.tril(jnp.ones((targets.shape[1], targets.shape[1]), bool))[None, None]
        cross = (inputs > 0)[:, None, None, :]
        if "decoder_segment_ids" in batch:
            decoder_segments = batch["decoder_segment_ids"]
            causal = causal & _same_segment(decoder_segments, decoder_segments)
            cross = cross & _same_segment(decoder_segments, batch["encoder_segment_ids"])
        return self.decoder(
            self._embed(targets), mask=causal, encoded=encoded, encoded_mask=cross, deterministic=deterministic
        )

    def encode(
        self, tokens: jax.Array, segment_ids: jax.Array | None = None, *, deterministic: bool = True
    ) -> jax.Array:
        """Returns [batch, inputs, embed] for tokens [batch, inputs] int32, 0 = padding."""
        mask = (tokens > 0)[:, None, None, :]
        if segment_ids is not None:
            mask = mask & _same_segment(segment_ids, segment_ids)
        return self.encoder(self._embed(tokens), mask, deterministic)

    def _embed(self, tokens: jax.Array) -> jax.Array:
        return self.token_embedder(tokens).astype(self.config.dtype)


def _same_segment(queries: jax.Array, keys: jax.Array) -> jax.Array:
    return (queries[:, :, None] == keys[:, None, :])[:, None]


OUTPUT_KERNEL = "decoder/logits_dense/kernel"  # its path


def output_kernel(params: Any) -> jax.Array:
    """Returns the matrix [embed, vocab] float32 that turns hidden states into logits (untied, unscaled)."""
    return params["decoder"]["logits_dense"]["kernel"]


def init_params(config: MT5Config, rng: jax.Array) -> Any:
    """Returns freshly drawn parameters, float32, each boxed with its logical axes (T5X's initialisers)."""
    tokens = jnp.ones((1, 2), jnp.int32)
    batch = {"encoder_input_tokens": tokens, "decoder_input_tokens": tokens}
    return MT5(config).init({"params": rng}, batch)["params"]


@cache  # what plans, places and reads a model each need them, and a trace takes most of a second
def param_shapes(config: MT5Config) -> Any:
    """Returns the tree of `init_params`, boxes included, with ShapeDtypeStructs; nothing is allocated."""
    return jax.eval_shape(lambda: init_params(config, jax.random.key(0)))
