"""Cross-entropy over a large vocabulary that never holds all the logits.

Logits of a step at mT5's 250,112 rows are gigabytes. The loss takes the tokens in chunks, and walks over the vocabulary
in blocks of columns, twice a chunk:

    first   logits of a block -> running maximum and sum of exponentials, the target's logit
    second  logits of a block -> softmax - target -> gradient of the hidden states, and of this block of the kernel

The second walk needs the logits again: as many blocks as `KEPT_BYTES` allow are kept from the first, the others are
multiplied anew. So memory does not depend on the batch, and of the kernel's gradient, as large as the kernel, there is
one copy, added to in place. All is done in the forward pass (custom VJP): the backward pass only scales.

One chunk more costs reading and writing the kernel's gradient once more; a block not kept costs a product more. On a
CPU memory is fast beside arithmetic: chunks are as short as keeping all blocks asks for. Accelerators take one chunk
and keep nothing.

Under tensor parallelism each device walks over its own part of the vocabulary and sums meet at the end.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

# Bytes a device: logits kept from the first walk to the second; the largest array of a block. With its neighbours (a
# block of the kernel, its transpose, its gradient, the softmax) a loss stays below 256 MiB beside its results.
# A CPU's blocks stay in its cache; an accelerator's must give all of it something to do, and leave nothing to keep.
KEPT_BYTES = 224 * 2**20
BLOCK_BYTES = 4 * 2**20
ACCELERATOR_BLOCK_BYTES = 64 * 2**20


class Loss(NamedTuple):
    """Sums over all weighted tokens, float32 scalars; divide by `weight` for means.

    `total` = `cross_entropy` (label smoothing's constant entropy removed, as T5X) + `z_loss`; `correct` counts targets
    that no other logit exceeds. `objective` = `total` / `normalizer` is what may be differentiated.
    """

    objective: jax.Array
    total: jax.Array
    cross_entropy: jax.Array
    z_loss: jax.Array
    correct: jax.Array
    weight: jax.Array


class _Settings(NamedTuple):
    z_loss: float
    label_smoothing: float
    vocab_shards: int
    num_chunks: int
    block_size: int
    kept_blocks: int
    has_kernel_gradient: bool


def vocabulary_loss(
    hidden: jax.Array,
    kernel: jax.Array,
    targets: jax.Array,
    weights: jax.Array,
    *,
    normalizer: jax.Array | float = 1.0,
    z_loss: float = 0.0,
    label_smoothing: float = 0.0,
    batch_shards: int = 1,
    vocab_shards: int = 1,
    num_chunks: int | None = None,
    block_size: int | None = None,
    kept_blocks: int | None = None,
    has_kernel_gradient: bool = True,
) -> Loss:
    """Returns the summed loss of logits = hidden @ kernel; products in the dtype of `hidden`, all else in float32.

    Per token: logsumexp(l) - sum(soft * l) + z_loss * logsumexp(l)^2, with soft targets 1 - s on the target and s / (V
      - 1) elsewhere.

    Args:
      hidden: [batch, length, embed], any float dtype.
      kernel: [embed, vocab] float32.
      targets: [batch, length] int32.
      weights: [batch, length] float32; 0 leaves a token out.
      normalizer: divides `objective`; not differentiated.
      batch_shards, vocab_shards: parts that the mesh splits `batch` and `vocab` into.
      num_chunks: of `length`.
      block_size, kept_blocks: columns of a block, in each part of the vocabulary, and blocks kept.
        None for these three: by `KEPT_BYTES`, `BLOCK_BYTES` and the kind of device.
      has_kernel_gradient: False for a frozen kernel: its gradient is neither computed nor stored.
    """
    batch, length, embed = hidden.shape
    part = kernel.shape[1] // vocab_shards
    row_bytes = 4 * -(-batch // batch_shards)  # of one column's logits at one position, on one device
    on_cpu = jax.default_backend() == "cpu"
    if num_chunks is None:
        fitting = max(1, KEPT_BYTES // (row_bytes * part))
        num_chunks = -(-length // fitting) if on_cpu else 1
    chunk = -(-length // num_chunks)
    if block_size is None:
        # A multiple of 128 for the sake of vector units.
        block_bytes = BLOCK_BYTES if on_cpu else ACCELERATOR_BLOCK_BYTES
        block_size = max(128, block_bytes // max(row_bytes * chunk, 4 * embed) // 128 * 128)
    block_size = min(block_size, part)
    if kept_blocks is None:
        kept_blocks = KEPT_BYTES // (row_bytes * chunk * block_size) if on_cpu else 0
    kept_blocks = min(kept_blocks, part // block_size)
    settings = _Settings(
        z_loss, label_smoothing, vocab_shards, num_chunks, block_size, kept_blocks, has_kernel_gradient
    )
    objective, parts = _loss(hidden, kernel, targets, weights, 1.0 / normalizer, settings)
    total, cross_entropy, z, correct = parts
    return Loss(objective, total, cross_entropy, z, correct, jnp.sum(weights))


@partial(jax.custom_vjp, nondiff_argnums=(5,))
def _loss(hidden, kernel, targets, weights, scale, settings):
    def add(sums, chunk):
        h, t, w = chunk
        statistics, _ = _Blocks(h, kernel, t, settings).first_walk(keep=False)
        return jax.tree.map(jnp.add, sums, _sums(statistics, w, settings, kernel.shape[1])), None

    sums, _ = _over_chunks(add, _no_sums(), (hidden, targets, weights), settings.num_chunks)
    return sums[0] * scale, sums


def _forward(hidden, kernel, targets, weights, scale, settings):
    def add(carry, chunk):
        sums, d_kernel = carry
        h, t, w = chunk
        blocks = _Blocks(h, kernel, t, settings)
        statistics, kept = blocks.first_walk(keep=True)
        d_hidden, d_kernel = blocks.second_walk(statistics.log_z, kept, w * scale, d_kernel)
        sums = jax.tree.map(jnp.add, sums, _sums(statistics, w, settings, kernel.shape[1]))
        return (sums, d_kernel), d_hidden

    start = (_no_sums(), jnp.zeros(kernel.shape, jnp.float32) if settings.has_kernel_gradient else None)
    (sums, d_kernel), d_hidden = _over_chunks(add, start, (hidden, targets, weights), settings.num_chunks)
    return (sums[0] * scale, sums), (d_hidden, d_kernel)


def _backward(settings, gradients, cotangents):
    d_hidden, d_kernel = gradients
    factor, _ = cotangents  # the parts are for reporting: only `objective` is differentiated
    d_hidden = d_hidden * factor.astype(d_hidden.dtype)
    return (d_hidden, d_kernel * factor if settings.has_kernel_gradient else None, None, None, None)


_loss.defvjp(_forward, _backward)


def _over_chunks(function, carry, arrays, num_chunks):
    """Scans over chunks of axis 1 of `arrays`, padded with zeros (weights too: padding counts nothing).

    `function` sees and returns tokens flattened, [batch * chunk, ...]; the batch axis stays whole, so that its sharding
    survives.
    """
    batch, length = arrays[0].shape[:2]
    chunk = -(-length // num_chunks)

    def split(x):
        x = jnp.pad(x, ((0, 0), (0, num_chunks * chunk - length), *[(0, 0)] * (x.ndim - 2)))
        x = jnp.moveaxis(x.reshape(batch, num_chunks, chunk, *x.shape[2:]), 1, 0)
        return x.reshape(num_chunks, batch * chunk, *x.shape[3:])

    def join(x):
        x = jnp.moveaxis(x.reshape(num_chunks, batch, chunk, *x.shape[2:]), 0, 1)
        return x.reshape(batch, num_chunks * chunk, *x.shape[3:])[:, :length]

    carry, outputs = jax.lax.scan(function, carry, jax.tree.map(split, arrays))
    return carry, jax.tree.map(join, outputs)


class _Statistics(NamedTuple):
    """Of each token, [tokens] float32: log-sum-exp, largest logit, the target's logit, and the sum of all logits."""

    log_z: jax.Array
    largest: jax.Array
    at_target: jax.Array
    sum: jax.Array


class _Blocks:
    """The two walks. Arrays of a block are [tokens, shards, block]; the axis `shards` is split over devices.

    Block i of a part is columns [i * size, (i + 1) * size) of it; a remainder smaller than a block comes last.
    """

    def __init__(self, hidden: jax.Array, kernel: jax.Array, targets: jax.Array, settings: _Settings):
        self.settings = settings
        self.hidden = hidden
        embed, vocab = kernel.shape
        self.part = vocab // settings.vocab_shards
        self.kernel = kernel.reshape(embed, settings.vocab_shards, self.part)
        first_columns = self.part * jnp.arange(settings.vocab_shards, dtype=jnp.int32)
        self.columns = targets[:, None] - first_columns  # the target's column in each part, if it is there
        self.num_blocks = self.part // settings.block_size
        self.remainder = self.part % settings.block_size

    def first_walk(self, keep: bool) -> tuple[_Statistics, jax.Array | None]:
        """Returns the statistics, and the logits of the first `kept_blocks` blocks [blocks, tokens, shards, block]."""
        size, kept_blocks = self.settings.block_size, self.settings.kept_blocks if keep else 0
        shape = self.columns.shape
        zeros = jnp.zeros(shape, jnp.float32)
        running = (jnp.full(shape, -jnp.inf, jnp.float32), zeros, zeros, zeros)

        def add(running, index):
            logits, _ = self._logits(index * size, size)
            return self._add(running, logits, index * size), logits

        kept = None
        if kept_blocks:
            running, kept = jax.lax.scan(add, running, jnp.arange(kept_blocks))
        running = jax.lax.fori_loop(kept_blocks, self.num_blocks, lambda i, r: add(r, i)[0], running)
        if self.remainder:
            logits, _ = self._logits(self.num_blocks * size, self.remainder)
            running = self._add(running, logits, self.num_blocks * size)
        largest, exponentials, at_target, total = running
        over_all = jnp.max(largest, axis=1)
        log_z = over_all + jnp.log(jnp.sum(exponentials * jnp.exp(largest - over_all[:, None]), axis=1))
        return _Statistics(log_z, over_all, jnp.sum(at_target, axis=1), jnp.sum(total, axis=1)), kept

    def second_walk(
        self, log_z: jax.Array, kept: jax.Array | None, weights: jax.Array, d_kernel: jax.Array | None
    ) -> tuple[jax.Array, jax.Array | None]:
        """Returns the gradient [tokens, embed] in the dtype of `hidden`, and `d_kernel` [embed, vocab] added to (None:
        a frozen kernel's).
        """
        size, kept_blocks = self.settings.block_size, self.settings.kept_blocks

        def add(gradients, start, logits, columns):
            d_hidden, d_kernel = gradients
            slope = self._slope(logits, log_z, weights, start).astype(self.hidden.dtype)
            d_hidden = d_hidden + _product("tmv,emv->te", slope, columns)
            if d_kernel is None:
                return d_hidden, None
            block = jax.lax.dynamic_slice_in_dim(d_kernel, start, logits.shape[2], axis=2)
            block = block + _product("te,tmv->emv", self.hidden, slope)
            return d_hidden, jax.lax.dynamic_update_slice_in_dim(d_kernel, block, start, axis=2)

        def add_kept(index, gradients):
            assert kept is not None
            logits = jax.lax.dynamic_index_in_dim(kept, index, keepdims=False)
            return add(gradients, index * size, logits, self._columns(index * size, size))

        def add_anew(index, gradients):
            return add(gradients, index * size, *self._logits(index * size, size))

        gradients: Any = (jnp.zeros(self.hidden.shape, jnp.float32), None)
        if d_kernel is not None:
            gradients = (gradients[0], d_kernel.reshape(self.kernel.shape))
        if self.remainder:
            start = self.num_blocks * size
            gradients = add(gradients, start, *self._logits(start, self.remainder))
        if kept_blocks:
            gradients = jax.lax.fori_loop(0, kept_blocks, add_kept, gradients)
        gradients = jax.lax.fori_loop(kept_blocks, self.num_blocks, add_anew, gradients)
        d_hidden, d_kernel = gradients
        d_hidden = d_hidden.astype(self.hidden.dtype)
        return d_hidden, None if d_kernel is None else d_kernel.reshape(d_kernel.shape[0], -1)

    def _columns(self, start: Any, size: int) -> jax.Array:
        return jax.lax.dynamic_slice_in_dim(self.kernel, start, size, axis=2).astype(self.hidden.dtype)

    def _logits(self, start: Any, size: int) -> tuple[jax.Array, jax.Array]:
        columns = self._columns(start, size)
        return _product("te,emv->tmv", self.hidden, columns), columns

    def _add(self, running, logits, start):
        largest, exponentials, at_target, total = running
        new_largest = jnp.maximum(largest, jnp.max(logits, axis=2))
        exponentials = exponentials * jnp.exp(largest - new_largest)
        exponentials += jnp.sum(jnp.exp(logits - new_largest[..., None]), axis=2)
        local = self.columns - start
        inside = (local >= 0) & (local < logits.shape[2])
        found = jnp.take_along_axis(logits, jnp.where(inside, local, 0)[..., None], axis=2)[..., 0]
        at_target = at_target + jnp.where(inside, found, 0.0)
        if self.settings.label_smoothing:
            total = total + jnp.sum(logits, axis=2)
        return new_largest, exponentials, at_target, total

    def _slope(self, logits, log_z, weights, start):
        """The loss's derivative by each logit of the block."""
        off = _off(self.settings, self.settings.vocab_shards * self.part)
        growth = weights * (1 + 2 * self.settings.z_loss * log_z)
        slope = jnp.exp(logits - log_z[:, None, None]) * growth[:, None, None]
        is_target = jax.lax.broadcasted_iota(jnp.int32, logits.shape, 2) == (self.columns - start)[..., None]
        on = 1 - self.settings.label_smoothing - off
        return slope - jnp.where(is_target, on + off, off) * weights[:, None, None]


def _no_sums():
    return (jnp.float32(0),) * 4


def _sums(statistics, weights, settings, vocab):
    """(total, cross-entropy, z-loss, hits) of a chunk."""
    log_z, at_target = statistics.log_z, statistics.at_target
    cross_entropy = log_z - at_target
    if settings.label_smoothing:
        off, on = _off(settings, vocab), 1 - settings.label_smoothing
        # The entropy of the soft targets: the loss's own minimum, removed so that a perfect model reads 0.
        entropy = -(on * jnp.log(on) + (vocab - 1) * off * jnp.log(off + 1e-20))
        cross_entropy = log_z - (on - off) * at_target - off * statistics.sum - entropy
    z_loss = settings.z_loss * jnp.square(log_z)
    correct = (at_target >= statistics.largest).astype(jnp.float32)
    return tuple(jnp.sum(x * weights) for x in (cross_entropy + z_loss, cross_entropy, z_loss, correct))


def _off(settings, vocab):
    """The share of a soft target that each wrong token has."""
    return settings.label_smoothing / (vocab - 1)


def _product(equation, *operands):
    """An einsum in float32 over [tokens, shards, block] arrays. A single shard leaves its axis out: with it XLA takes
    a product over shards and columns for one over two axes, and transposes blocks of the kernel in memory.
    """
    *inputs, output = equation.replace("->", ",").split(",")
    if all(x.shape[i.index("m")] == 1 for i, x in zip(inputs, operands, strict=True) if "m" in i):
        flat = [x.squeeze(i.index("m")) if "m" in i else x for i, x in zip(inputs, operands, strict=True)]
        product = jnp.einsum(equation.replace("m", ""), *flat, preferred_element_type=jnp.float32)
        return jnp.expand_dims(product, output.index("m")) if "m" in output else product
    return jnp.einsum(equation, *operands, preferred_element_type=jnp.float32)
