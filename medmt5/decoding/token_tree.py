"""An mT5's decoder over a tree of tokens: what beams have in common is computed once, and no cache is ever reordered.

The hypotheses of a sentence are paths in a tree. Its nodes are slots of one memory a sentence; a new node is told which
slots it may see: its ancestors and itself. So a hypothesis is a mask, a chain of tokens known beforehand is fed in one
pass, and what search gives up stays behind, unseen, until `keep` takes it out.

The weights are those of `model.mt5`, joined where one product serves several; sliced into layers once, outside of the
loop of the search, for a slice inside is a copy a step. Tests hold it to teacher forcing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from medmt5.model import mt5
from medmt5.model.attention import MASKED
from medmt5.model.layers import einsum, gated_gelu, product, relative_position_bucket

# (memory, used, tokens, positions, visible) -> (hidden, memory); see `Decoder.extend`.
ExtendFn = Callable[[Any, jax.Array, jax.Array, jax.Array, jax.Array], tuple[jax.Array, Any]]


class Layer(NamedTuple):
    """One decoder layer, in the compute dtype; `heads` is heads * head_dim."""

    self_norm: jax.Array  # [embed]
    self_in: jax.Array  # [embed, 3, heads]: query, key, value
    self_out: jax.Array  # [heads, embed]
    cross_norm: jax.Array  # [embed]
    cross_in: jax.Array  # [embed, heads]: query
    cross_out: jax.Array  # [heads, embed]
    mlp_norm: jax.Array  # [embed]
    mlp_in: jax.Array  # [embed, 2, mlp]: gate, linear
    mlp_out: jax.Array  # [mlp, embed]


class KeyValues(NamedTuple):
    """Keys [batch, heads, head_dim, slots], values [batch, heads, slots, head_dim]: products read them as they lie."""

    keys: jax.Array
    values: jax.Array


class Memory(NamedTuple):
    """What the decoder remembers of the nodes; `positions` counts the tokens before a node.

    layers:    a KeyValues a layer
    positions: [batch, slots] int32
    """

    layers: tuple[KeyValues, ...]
    positions: jax.Array

    def keep(self, order: jax.Array) -> Memory:
        """Returns the memory whose slot i is this one's slot order[b, i], for [batch, slots] int32."""
        keys, values = order[:, None, None, :], order[:, None, :, None]
        return Memory(
            tuple(KeyValues(_take(layer.keys, keys, 3), _take(layer.values, values, 2)) for layer in self.layers),
            _take(self.positions, order, 1),
        )

    def grow(self, slots: int) -> Memory:
        """Returns the memory with empty slots at its end, `slots` in all."""
        more = slots - self.positions.shape[1]
        return Memory(
            tuple(KeyValues(_pad(layer.keys, 3, more), _pad(layer.values, 2, more)) for layer in self.layers),
            _pad(self.positions, 1, more),
        )


class Decoder(NamedTuple):
    """A decoder and the encoded inputs of a batch, made by `make_decoder`."""

    config: mt5.MT5Config
    embedding: jax.Array  # [vocab, embed]
    layers: tuple[Layer, ...]
    norm: jax.Array  # [embed]
    bias: jax.Array  # [heads, distances] float32: by tokens between, the last one for all beyond
    crosses: tuple[KeyValues, ...]
    inputs_bias: jax.Array  # [batch, 1, 1, inputs] float32: 0, or MASKED for padding

    def empty(self, slots: int = 0) -> Memory:
        c, batch = self.config, self.inputs_bias.shape[0]
        keys = jnp.zeros((batch, c.num_heads, c.head_dim, slots), c.dtype)
        pair = KeyValues(keys, jnp.swapaxes(keys, 2, 3))
        return Memory((pair,) * c.num_decoder_layers, jnp.zeros((batch, slots), jnp.int32))

    def extend(
        self, memory: Memory, used: jax.Array, tokens: jax.Array, positions: jax.Array, visible: jax.Array
    ) -> tuple[jax.Array, Memory]:
        """Adds nodes in the slots `used`, `used` + 1, … and returns their (hidden [batch, new, embed], memory).

        Args:
          used: int32 scalar; all sentences alike.
          tokens, positions: [batch, new] int32.
          visible: [batch, new, slots] bool: which slots a node sees, its own included.
        """
        memory = memory._replace(positions=_write(memory.positions, positions, used, axis=1))
        distances = positions[:, :, None] - memory.positions[:, None]
        bias = jnp.take(self.bias, distances.clip(0, self.bias.shape[1] - 1), axis=1)
        bias = jnp.where(visible[:, None], jnp.moveaxis(bias, 0, 1), MASKED)
        x = jnp.take(self.embedding, tokens, axis=0).astype(self.config.dtype)
        layers = []
        for layer, cross, own in zip(self.layers, self.crosses, memory.layers, strict=True):
            queries, keys, values = self._heads(_product(_norm(x, layer.self_norm), layer.self_in))
            own = KeyValues(
                _write(own.keys, jnp.swapaxes(keys, 2, 3), used, axis=3), _write(own.values, values, used, axis=2)
            )
            x = x + self._attend(queries, own, bias, layer.self_out)
            (queries,) = self._heads(_product(_norm(x, layer.cross_norm), layer.cross_in[:, None]))
            x = x + self._attend(queries, cross, self.inputs_bias, layer.cross_out)
            inner = _product(_norm(x, layer.mlp_norm), layer.mlp_in)
            x = x + product(gated_gelu(inner[:, :, 0], inner[:, :, 1]), layer.mlp_out)
            layers.append(own)
        return _norm(x, self.norm), Memory(tuple(layers), memory.positions)

    def _heads(self, x: jax.Array) -> list[jax.Array]:
        """[batch, new, n, heads * head_dim] -> n arrays [batch, heads, new, head_dim]."""
        x = x.reshape(*x.shape[:3], self.config.num_heads, self.config.head_dim)
        return [jnp.swapaxes(x[:, :, i], 1, 2) for i in range(x.shape[2])]

    def _attend(self, queries: jax.Array, own: KeyValues, bias: jax.Array, out: jax.Array) -> jax.Array:
        scores = jnp.einsum("bhqd,bhdk->bhqk", queries, own.keys, preferred_element_type=jnp.float32)
        weights = jax.nn.softmax(scores + bias, axis=-1).astype(own.values.dtype)
        y = jnp.swapaxes(jnp.einsum("bhqk,bhkd->bhqd", weights, own.values), 1, 2)
        return product(y.reshape(*y.shape[:2], -1), out)


def make_decoder(config: mt5.MT5Config, params: Any, inputs: jax.Array, *, longest: int) -> Decoder:
    """Encodes inputs [batch, inputs] int32, 0 = padding, for outputs of up to `longest` tokens."""
    encoded: Any = mt5.MT5(config).apply({"params": params}, inputs, method="encode")
    decoder = params["decoder"]
    stacked = decoder["layers"]

    def kernels(module: str, *names: str) -> jax.Array:
        """[layers, inputs, names, outputs], or without `names` where there is one."""
        of_names = [stacked[module][name]["kernel"].astype(config.dtype) for name in names]
        return jnp.stack(of_names, axis=2) if len(names) > 1 else of_names[0]

    layers = Layer(
        self_norm=stacked["pre_self_attention_layer_norm"]["scale"],
        self_in=kernels("self_attention", "query", "key", "value"),
        self_out=kernels("self_attention", "out"),
        cross_norm=stacked["pre_cross_attention_layer_norm"]["scale"],
        cross_in=kernels("encoder_decoder_attention", "query"),
        cross_out=kernels("encoder_decoder_attention", "out"),
        mlp_norm=stacked["pre_mlp_layer_norm"]["scale"],
        mlp_in=kernels("mlp", "wi_0", "wi_1"),
        mlp_out=kernels("mlp", "wo"),
    )

    def cross(layer: int, name: str) -> jax.Array:
        """[batch, inputs, heads, head_dim]"""
        y = product(encoded, kernels("encoder_decoder_attention", name)[layer])
        return y.reshape(*y.shape[:2], config.num_heads, config.head_dim)

    table = decoder["relpos_bias"]["rel_embedding"]
    buckets = relative_position_bucket(-jnp.arange(longest), False, table.shape[1])
    return Decoder(
        config=config,
        embedding=params["token_embedder"]["embedding"],
        layers=tuple(Layer(*(x[i] for x in layers)) for i in range(config.num_decoder_layers)),
        norm=decoder["decoder_norm"]["scale"],
        bias=jnp.take(table, buckets, axis=1),
        crosses=tuple(
            KeyValues(jnp.transpose(cross(i, "key"), (0, 2, 3, 1)), jnp.swapaxes(cross(i, "value"), 1, 2))
            for i in range(config.num_decoder_layers)
        ),
        inputs_bias=jnp.where(inputs > 0, 0.0, MASKED)[:, None, None],
    )


def _write(slots: jax.Array, new: jax.Array, used: jax.Array, axis: int) -> jax.Array:
    return jax.lax.dynamic_update_slice_in_dim(slots, new.astype(slots.dtype), used, axis)


def _take(slots: jax.Array, order: jax.Array, axis: int) -> jax.Array:
    # The order is a permutation: a check of each place would double the time.
    return jnp.take_along_axis(slots, order, axis, mode="promise_in_bounds")


def _pad(slots: jax.Array, axis: int, more: int) -> jax.Array:
    return jnp.pad(slots, [(0, more if i == axis else 0) for i in range(slots.ndim)])


def _product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """x [batch, new, embed] times [embed, n, outputs] -> [batch, new, n, outputs], as one matrix product."""
    return einsum("bqe,enj->bqnj", x, kernel)


def _norm(x: jax.Array, scale: jax.Array) -> jax.Array:
    """`layers.RMSNorm`."""
    y = x.astype(jnp.float32)
    return (y * jax.lax.rsqrt(jnp.mean(jnp.square(y), axis=-1, keepdims=True) + 1e-6) * scale).astype(x.dtype)
