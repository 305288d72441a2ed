"""The parts of a T5 1.1 layer that are not attention: dense kernels, RMS norm, gated MLP, relative position bias.

No biases anywhere, float32 parameters, compute in `dtype`. Every parameter names its axes; a mesh file maps the names
to devices.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name

from medmt5.model import lora
from medmt5.model.lora import NO_LORA, LoRA

Initializer = Any
PRODUCT = "product"  # the name by which a remat policy knows a product with a parameter


def named(initializer: Initializer, *axes: str) -> Initializer:
    """Returns `initializer` with logical axis names on the parameter it makes."""
    return nn.with_logical_partitioning(initializer, axes)


class Kernel(nn.Module):
    """A matrix product without bias: [..., inputs] @ kernel [inputs, outputs] -> [..., outputs] in `dtype`.

    Where `lora` adapts a kernel of this name, the adapters' product is added.
    """

    outputs: int
    axes: Sequence[str]
    initializer: Initializer
    dtype: jnp.dtype = jnp.float32
    lora: LoRA = NO_LORA

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", named(self.initializer, *self.axes), (x.shape[-1], self.outputs), jnp.float32)
        x = x.astype(self.dtype)
        y = product(x, kernel.astype(self.dtype))
        if self.lora.adapts(self.name or ""):
            y = y + self._adapters(x)
        return checkpoint_name(y, PRODUCT)

    def _adapters(self, x: jax.Array) -> jax.Array:
        rank, (inputs, outputs) = self.lora.rank, self.axes
        # U(-1, 1) / sqrt(inputs), as the authors' code draws A.
        uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
        a = self.param(lora.A, named(uniform, inputs, "lora_rank"), (x.shape[-1], rank), jnp.float32)
        b = self.param(lora.B, named(nn.initializers.zeros, "lora_rank", outputs), (rank, self.outputs), jnp.float32)
        return product(product(x, a.astype(self.dtype)) * self.lora.scale, b.astype(self.dtype))


@jax.custom_vjp
def product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """x [..., inputs] @ kernel [inputs, outputs].

    Its derivative is written out because of how JAX orders the kernel's: as [outputs, inputs], transposed afterwards.
    XLA then fuses the transposition into what makes the cotangent, and a CPU writes whole activations across memory,
    thirty times as slow as along it.
    """
    return einsum("...i,io->...o", x, kernel)


def _product_forward(x, kernel):
    return product(x, kernel), (x, kernel)


def _product_backward(kept, cotangent):
    x, kernel = kept
    d_x = einsum("...o,io->...i", cotangent, kernel)
    d_kernel = einsum("ni,no->io", x.reshape(-1, x.shape[-1]), cotangent.reshape(-1, cotangent.shape[-1]))
    return d_x, d_kernel


def einsum(equation: str, x: jax.Array, y: jax.Array) -> jax.Array:
    """A product in the dtype of `x`. On CPUs XLA multiplies bfloat16 twice as fast as float32 if asked for float32
    results, up to jax 0.11 only then; elsewhere that would be another pass over them.
    """
    results = jnp.float32 if jax.default_backend() == "cpu" else None
    return jnp.einsum(equation, x, y, preferred_element_type=results).astype(x.dtype)


product.defvjp(_product_forward, _product_backward)


class RMSNorm(nn.Module):
    """x / RMS(x) * scale over the last axis, computed in float32 (T5's layer norm: no mean, no bias), eps 1e-6."""

    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.param("scale", named(nn.initializers.ones, "embed"), (x.shape[-1],), jnp.float32)
        x = x.astype(jnp.float32)
        x = x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + 1e-6)
        return (x * scale).astype(self.dtype)


class GatedMLP(nn.Module):
    """wo(gelu(wi_0 x) * wi_1 x) with the tanh GELU (Shazeer 2020, T5 1.1's GEGLU): [batch, length, embed] -> the same
    shape.
    """

    mlp_dim: int
    dropout_rate: float
    dtype: jnp.dtype
    lora: LoRA = NO_LORA

    @nn.compact
    def __call__(self, x: jax.Array, deterministic: bool) -> jax.Array:
        initializer = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")
        gate = Kernel(self.mlp_dim, ("embed", "mlp"), initializer, self.dtype, self.lora, name="wi_0")(x)
        linear = Kernel(self.mlp_dim, ("embed", "mlp"), initializer, self.dtype, self.lora, name="wi_1")(x)
        hidden = dropout(self.dropout_rate)(gated_gelu(gate, linear), deterministic)
        hidden = nn.with_logical_constraint(hidden, ("batch", "length", "mlp"))
        return Kernel(x.shape[-1], ("mlp", "embed"), initializer, self.dtype, self.lora, name="wo")(hidden)


@jax.custom_vjp
def gated_gelu(gate: jax.Array, linear: jax.Array) -> jax.Array:
    """gelu(gate) * linear with the tanh GELU; keeps its two arguments alone for the backward pass.

    The tanh is computed again there: cheaper than the four arrays of this size that would be kept instead.
    """
    return nn.gelu(gate, approximate=True) * linear


def _gated_gelu_forward(gate, linear):
    return gated_gelu(gate, linear), (gate, linear)


def _gated_gelu_backward(kept, cotangent):
    gate, linear = kept
    gelu, pull_back = jax.vjp(partial(nn.gelu, approximate=True), gate)
    return *pull_back(cotangent * linear), cotangent * gelu


gated_gelu.defvjp(_gated_gelu_forward, _gated_gelu_backward)


def dropout(rate: float) -> nn.Dropout:
    """Dropout whose mask is shared along the length, as T5X's: the mask costs next to nothing."""
    return nn.Dropout(rate, broadcast_dims=(-2,))


class RelativePositionBias(nn.Module):
    """T5's bias by distance: one table [heads, 32] for all layers of a stack (Raffel et al. 2020, section 2.1)."""

    num_heads: int
    bidirectional: bool
    num_buckets: int = 32
    max_distance: int = 128

    @nn.compact
    def __call__(self, num_queries: int, num_keys: int) -> jax.Array:
        """Returns [1, heads, queries, keys] float32 for queries and keys 0, 1, …"""
        table = self.param(
            "rel_embedding",
            named(nn.initializers.variance_scaling(1.0, "fan_avg", "uniform"), "heads", "relpos_buckets"),
            (self.num_heads, self.num_buckets),
            jnp.float32,
        )
        # A bias depends on the distance alone: of the queries + keys - 1 distances one row is looked up, and all rows
        # are that one, shifted. So there is no gather over queries x keys, and no scatter in the backward pass.
        distances = jnp.arange(1 - num_queries, num_keys)
        buckets = relative_position_bucket(distances, self.bidirectional, self.num_buckets, self.max_distance)
        return shifted_rows(jnp.take(table, buckets, axis=1), num_queries, num_keys)[None]


def shifted_rows(row: jax.Array, num_queries: int, num_keys: int) -> jax.Array:
    """Returns [heads, queries, keys] whose element (h, q, k) is row[h, k - q + queries - 1], for a `row` of queries +
    keys - 1 elements a head.

    >>> shifted_rows(jnp.arange(4)[None], 2, 3)[0].tolist()
    [[1, 2, 3], [0, 1, 2]]
    """
    if num_queries == 1:
        return row[:, None]
    heads, length = row.shape
    # Query 0's row, then the rest of the cycle; written once a query into one long line that is cut anew, each piece
    # one element shorter: so every query starts one element earlier in the cycle than the one before.
    cycle = jnp.roll(row, 1 - num_queries, axis=1)
    line = jnp.broadcast_to(cycle[:, None], (heads, num_queries, length)).reshape(heads, num_queries * length)
    pieces = line[:, : num_queries * (length - 1)].reshape(heads, num_queries, length - 1)
    return pieces[:, :, :num_keys]


def relative_position_bucket(
    distance: jax.Array, bidirectional: bool, num_buckets: int = 32, max_distance: int = 128
) -> jax.Array:
    """Returns the bucket, int32 in [0, num_buckets), of `distance` = key position - query position, any shape int32.

    Half of the buckets (of each direction) are exact, the rest grow logarithmically up to `max_distance`; farther is
    the last one.
    """
    bucket = jnp.zeros_like(distance)
    if bidirectional:
        num_buckets //= 2
        bucket += jnp.where(distance > 0, num_buckets, 0)
        distance = jnp.abs(distance)
    else:
        distance = jnp.maximum(-distance, 0)
    exact = num_buckets // 2
    # + eps as in Mesh TensorFlow's and T5X's code, so that exact powers fall where the published weights expect them.
    scaled = jnp.log(distance.astype(jnp.float32) / exact + np.finfo(np.float32).eps) / np.log(max_distance / exact)
    far = exact + (scaled * (num_buckets - exact)).astype(jnp.int32)
    return bucket + jnp.where(distance < exact, distance, jnp.minimum(far, num_buckets - 1))
