"""Multi-head attention of T5: no 1/sqrt(d) (it is folded into the query's initialisation), float32 scores and softmax.

`attend` is the one place where scores are made; modules here only project. Decoding passes keys and values explicitly
(`KeyValues`), so that the cache is plain data: no mutable collections.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from medmt5.model.layers import Kernel

MASKED = -1e10


class KeyValues(NamedTuple):
    """Keys and values [batch, length, heads, head_dim]; with a leading `layers` axis for a whole stack."""

    keys: jax.Array
    values: jax.Array


def attend(
    queries: jax.Array,
    keys: jax.Array,
    values: jax.Array,
    *,
    mask: jax.Array,
    bias: jax.Array | None,
    dropout_rate: float = 0.0,
    dropout_rng: jax.Array | None = None,
) -> jax.Array:
    """Returns softmax(q k^T + bias) v, [batch, queries, heads, head_dim] in the dtype of `values`.

    Args:
      queries, keys, values: [batch, length, heads, head_dim].
      mask: [batch or 1, 1, queries or 1, keys] bool, True = may be seen.
      bias: [1, heads, queries, keys] float32, or None.
      dropout_rng: None = no dropout. The mask of attention dropout is shared over the queries, as T5X's.
    """
    scores = jnp.einsum("bqhd,bkhd->bhqk", queries, keys, preferred_element_type=jnp.float32)
    if bias is not None:
        scores = scores + bias
    weights = jax.nn.softmax(jnp.where(mask, scores, MASKED), axis=-1)
    if dropout_rng is not None and dropout_rate > 0:
        shape = (*weights.shape[:2], 1, weights.shape[3])
        keep = jax.random.bernoulli(dropout_rng, 1 - dropout_rate, shape)
        weights = weights * (keep / (1 - dropout_rate)).astype(weights.dtype)
    return jnp.einsum("bhqk,bkhd->bqhd", weights.astype(values.dtype), values)


class Attention(nn.Module):
    """Projections around `attend`. Kernels are 2-D, [embed, heads * head_dim], as in T5X's and Hugging Face's
    checkpoints.
    """

    num_heads: int
    head_dim: int
    dropout_rate: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        source: jax.Array | None,
        *,
        mask: jax.Array,
        bias: jax.Array | None,
        deterministic: bool,
        cross: KeyValues | None = None,
        cache: KeyValues | None = None,
        cache_index: jax.Array | None = None,
    ) -> tuple[jax.Array, KeyValues | None]:
        """Attends from `x` [batch, queries, embed] to `source` [batch, keys, embed].

        Instead of `source`: `cross`, keys and values computed before, or (self-attention, one query) `cache`, to whose
        slot `cache_index` the new key and value are written. Returns the output, shaped as `x`, and the updated cache
        (None without one).
        """
        joined = self.num_heads * self.head_dim
        fan_in = nn.initializers.variance_scaling(1.0, "fan_in", "normal")

        def query_initializer(key, shape, dtype):
            return fan_in(key, shape, dtype) / jnp.sqrt(self.head_dim)

        def project(name, y, initializer=fan_in):
            y = Kernel(joined, ("embed", "heads"), initializer, self.dtype, name=name)(y)
            y = y.reshape(*y.shape[:-1], self.num_heads, self.head_dim)
            return nn.with_logical_constraint(y, ("batch", "length", "heads", "kv"))

        queries = project("query", x, query_initializer)
        if cross is not None:
            keys, values = cross
        else:
            keys, values = project("key", source), project("value", source)
        if cache is not None:
            assert cache_index is not None
            keys = jax.lax.dynamic_update_slice_in_dim(cache.keys, keys.astype(cache.keys.dtype), cache_index, axis=1)
            values = jax.lax.dynamic_update_slice_in_dim(
                cache.values, values.astype(cache.values.dtype), cache_index, axis=1
            )
            cache = KeyValues(keys, values)
        rng = None if deterministic or not self.dropout_rate else self.make_rng("dropout")
        out = attend(queries, keys, values, mask=mask, bias=bias, dropout_rate=self.dropout_rate, dropout_rng=rng)
        out = out.reshape(*out.shape[:-2], joined)
        return Kernel(x.shape[-1], ("heads", "embed"), fan_in, self.dtype, name="out")(out), cache
