"""Cross-entropy over a large vocabulary that never holds all the logits.

Logits of a step at mT5's 250,112 rows are gigabytes. The loss walks over the target length in chunks; each chunk's
logits live only while its loss and its gradients are computed, in the same pass (custom VJP: the backward pass only
scales what the forward pass kept).
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

# Float32 logits of one chunk. Small enough for caches and memory, large enough for the matrix product.
CHUNK_BYTES = 64 * 2**20


class Loss(NamedTuple):
    """Sums over all weighted tokens, float32 scalars; divide by `weight` for means.

    `total` = `cross_entropy` (label smoothing's constant entropy removed, as T5X) + `z_loss`; `correct` counts argmax
    hits.
    """

    total: jax.Array
    cross_entropy: jax.Array
    z_loss: jax.Array
    correct: jax.Array
    weight: jax.Array


def vocabulary_loss(
    hidden: jax.Array,
    kernel: jax.Array,
    targets: jax.Array,
    weights: jax.Array,
    *,
    z_loss: float = 0.0,
    label_smoothing: float = 0.0,
    chunk_length: int | None = None,
) -> Loss:
    """Returns the summed loss of logits = hidden @ kernel, in float32.

    Per token: logsumexp(l) - sum(soft * l) + z_loss * logsumexp(l)^2, with soft targets 1 - s on the target and s / (V
      - 1) elsewhere.

    Args:
      hidden: [batch, length, embed], any float dtype.
      kernel: [embed, vocab] float32.
      targets: [batch, length] int32.
      weights: [batch, length] float32; 0 leaves a token out.
      chunk_length: positions in one chunk; None = as many as `CHUNK_BYTES` allow.
    """
    batch, length, _ = hidden.shape
    if chunk_length is None:
        chunk_length = max(1, CHUNK_BYTES // (4 * batch * kernel.shape[1]))
    chunk_length = min(chunk_length, length)
    padding = -length % chunk_length
    if padding:
        hidden = jnp.pad(hidden, ((0, 0), (0, padding), (0, 0)))
        targets, weights = (jnp.pad(x, ((0, 0), (0, padding))) for x in (targets, weights))
    total, parts = _chunked_loss(hidden, kernel, targets, weights, z_loss, label_smoothing, chunk_length)
    cross_entropy, z, correct = parts
    return Loss(total, cross_entropy, z, correct, jnp.sum(weights))


@partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6))
def _chunked_loss(hidden, kernel, targets, weights, z_loss, label_smoothing, chunk_length):
    def add(sums, chunk):
        h, t, w = chunk
        _, losses = _chunk_losses(h, kernel, t, w, z_loss, label_smoothing)
        return jax.tree.map(jnp.add, sums, losses), None

    zeros = jnp.float32(0)
    (total, *parts), _ = jax.lax.scan(add, (zeros,) * 4, _split(chunk_length, hidden, targets, weights))
    return total, tuple(parts)


def _forward(hidden, kernel, targets, weights, z_loss, label_smoothing, chunk_length):
    def add(carry, chunk):
        sums, d_kernel = carry
        h, t, w = chunk
        (logits, log_z), losses = _chunk_losses(h, kernel, t, w, z_loss, label_smoothing)
        off = label_smoothing / (kernel.shape[1] - 1)
        slope = jnp.exp(logits - log_z) * (1 + 2 * z_loss * log_z) - off
        rows, columns = jnp.indices(t.shape, sparse=True)
        slope = slope.at[rows, columns, t].add(-(1 - label_smoothing - off)) * w[..., None]
        d_hidden = jnp.einsum("btv,ev->bte", slope, kernel)
        d_kernel = d_kernel + jnp.einsum("bte,btv->ev", h.astype(jnp.float32), slope)
        return (jax.tree.map(jnp.add, sums, losses), d_kernel), d_hidden.astype(h.dtype)

    zeros = jnp.float32(0)
    start = ((zeros,) * 4, jnp.zeros(kernel.shape, jnp.float32))
    ((total, *parts), d_kernel), d_hidden = jax.lax.scan(add, start, _split(chunk_length, hidden, targets, weights))
    d_hidden = jnp.moveaxis(d_hidden, 0, 1).reshape(hidden.shape)
    return (total, tuple(parts)), (d_hidden, d_kernel)


def _backward(z_loss, label_smoothing, chunk_length, residuals, cotangents):
    d_hidden, d_kernel = residuals
    scale, _ = cotangents  # the parts are for reporting: only `total` is differentiated
    return (d_hidden * scale.astype(d_hidden.dtype), d_kernel * scale, None, None)


_chunked_loss.defvjp(_forward, _backward)


def _chunk_losses(h, kernel, t, w, z_loss, label_smoothing):
    logits = jnp.einsum("bte,ev->btv", h.astype(jnp.float32), kernel)
    log_z = jax.nn.logsumexp(logits, axis=-1, keepdims=True)
    at_target = jnp.take_along_axis(logits, t[..., None], axis=-1)[..., 0]
    cross_entropy = log_z[..., 0] - at_target
    if label_smoothing:
        off = label_smoothing / (kernel.shape[1] - 1)
        on = 1 - label_smoothing
        # The entropy of the soft targets: the loss's own minimum, removed so that a perfect model reads 0.
        entropy = -(on * jnp.log(on) + (kernel.shape[1] - 1) * off * jnp.log(off + 1e-20))
        cross_entropy = log_z[..., 0] - (on - off) * at_target - off * jnp.sum(logits, axis=-1) - entropy
    z = z_loss * jnp.square(log_z[..., 0])
    correct = (jnp.argmax(logits, axis=-1) == t).astype(jnp.float32)
    sums = tuple(jnp.sum(x * w) for x in (cross_entropy + z, cross_entropy, z, correct))
    return (logits, log_z), sums


def _split(chunk_length, *arrays):
    """[batch, length, ...] -> [chunks, batch, chunk_length, ...]; the batch axis stays whole, so its sharding
    survives.
    """
    return tuple(
        jnp.moveaxis(x.reshape(x.shape[0], x.shape[1] // chunk_length, chunk_length, *x.shape[2:]), 1, 0)
        for x in arrays
    )
