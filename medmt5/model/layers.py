"""The parts of a T5 1.1 layer that are not attention: dense kernels, RMS norm, gated MLP, relative position bias.

No biases anywhere, float32 parameters, compute in `dtype`. Every parameter names its axes; a mesh file maps the names
to devices.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

Initializer = Any


def named(initializer: Initializer, *axes: str) -> Initializer:
    """Returns `initializer` with logical axis names on the parameter it makes."""
    return nn.with_logical_partitioning(initializer, axes)


class Kernel(nn.Module):
    """A matrix product without bias: [..., inputs] @ kernel [inputs, outputs] -> [..., outputs] in `dtype`."""

    outputs: int
    axes: Sequence[str]
    initializer: Initializer
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", named(self.initializer, *self.axes), (x.shape[-1], self.outputs), jnp.float32)
        return jnp.dot(x.astype(self.dtype), kernel.astype(self.dtype))


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

    @nn.compact
    def __call__(self, x: jax.Array, deterministic: bool) -> jax.Array:
        initializer = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")
        gate = Kernel(self.mlp_dim, ("embed", "mlp"), initializer, self.dtype, name="wi_0")(x)
        linear = Kernel(self.mlp_dim, ("embed", "mlp"), initializer, self.dtype, name="wi_1")(x)
        hidden = dropout(self.dropout_rate)(nn.gelu(gate, approximate=True) * linear, deterministic)
        hidden = nn.with_logical_constraint(hidden, ("batch", "length", "mlp"))
        return Kernel(x.shape[-1], ("mlp", "embed"), initializer, self.dtype, name="wo")(hidden)


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
    def __call__(self, query_positions: jax.Array, key_positions: jax.Array) -> jax.Array:
        """Returns [1, heads, queries, keys] float32 for positions [queries] and [keys] int32."""
        table = self.param(
            "rel_embedding",
            named(nn.initializers.variance_scaling(1.0, "fan_avg", "uniform"), "heads", "relpos_buckets"),
            (self.num_heads, self.num_buckets),
            jnp.float32,
        )
        buckets = relative_position_bucket(
            key_positions[None, :] - query_positions[:, None], self.bidirectional, self.num_buckets, self.max_distance
        )
        return jnp.take(table, buckets, axis=1)[None]


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
