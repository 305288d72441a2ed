"""Adafactor (Shazeer & Stern 2018, algorithm 4) as T5X runs it, in as few passes over memory as it can be.

    R, C <- means of squared gradients over columns, over rows, each a running mean with decay 1 - t^-0.8
    U    =  G / sqrt(R C^T / mean(R))
    step =  max(RMS(parameter), 1e-3) * U / max(1, RMS(U))

optax has the same in pieces, and is what this is held to; its pieces write U, the clipped U and the scaled U to memory,
and at 250,112 rows each is half a gigabyte. Here U is a product of the gradient and two vectors wherever it is needed
and is never stored.

A leaf below a `layers` key holds all layers of a stack on axis 0: factoring, clipping and the parameter scale see each
layer alone, so a scanned and an unscanned model take the same steps.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

EPSILON = 1e-30  # added to squared gradients
MIN_PARAMETER_SCALE = 1e-3
MIN_DIM_SIZE_TO_FACTOR = 128
# Sums over the first axis of a matrix stride over its rows. Where a row is longer than this many bytes a CPU misses its
# caches at every element, and blocks of columns are summed one after the other instead.
WIDE_ROW_BYTES = 2**18
BLOCK_COLUMNS = 8192


class _Leaf(NamedTuple):
    update: jax.Array
    v_row: jax.Array
    v_col: jax.Array
    v: jax.Array


def scale_by_adafactor(
    decay_rate: float, clipping_threshold: float, multiply_by_parameter_scale: bool
) -> optax.GradientTransformation:
    """Returns the transformation gradient -> U, clipped and scaled; the learning rate and its sign come after.

    The state is optax's `FactoredState`: `v_row` has the parameter's shape without its largest axis, `v_col` without
    the second largest; parameters with a smaller axis than `MIN_DIM_SIZE_TO_FACTOR` have all of `v`. What a
    parameter does not use is a placeholder of one element.
    """

    def init(params: Any) -> optax.FactoredState:
        def of_leaf(path, p):
            axes = factored_axes(path, p.shape)
            unused = jnp.zeros((1,), jnp.float32)
            if axes is None:
                return _Leaf(unused, unused, unused, jnp.zeros(p.shape, jnp.float32))
            smaller, larger = axes
            v_row, v_col = (jnp.zeros(np.delete(p.shape, axis), jnp.float32) for axis in (larger, smaller))
            return _Leaf(unused, v_row, v_col, unused)

        return _state(jnp.int32(0), jax.tree_util.tree_map_with_path(of_leaf, params))

    def update(gradients: Any, state: optax.FactoredState, params: Any) -> tuple[Any, optax.FactoredState]:
        decay = 1.0 - (state.count + 1.0) ** -decay_rate

        def of_leaf(path, g, p, v_row, v_col, v):
            axes = factored_axes(path, g.shape)
            own = tuple(range(is_stacked(path), g.ndim))  # the axes of one layer
            factors: tuple[jax.Array, ...]
            if axes is None:
                v = decay * v + (1 - decay) * (jnp.square(g) + EPSILON)
                factors = (jax.lax.rsqrt(v),)
            else:
                smaller, larger = axes
                v_row = decay * v_row + (1 - decay) * (_mean_square(g, larger) + EPSILON)
                v_col = decay * v_col + (1 - decay) * (_mean_square(_again(g), smaller) + EPSILON)
                row, col = jnp.expand_dims(v_row, larger), jnp.expand_dims(v_col, smaller)
                factors = (jax.lax.rsqrt(row / jnp.mean(row, axis=smaller, keepdims=True)), jax.lax.rsqrt(col))
            scale = 1.0 / jnp.maximum(1.0, _rms(_product(_again(g), factors), own) / clipping_threshold)
            if multiply_by_parameter_scale:
                scale = scale * jnp.maximum(_rms(p, own), MIN_PARAMETER_SCALE)
            return _Leaf(_product(_again(g), _again(factors)) * scale, v_row, v_col, v)

        leaves = jax.tree_util.tree_map_with_path(of_leaf, gradients, params, state.v_row, state.v_col, state.v)
        return _pick(leaves, "update"), _state(optax.safe_increment(state.count), leaves)

    return optax.GradientTransformation(init, update)


def factored_axes(path: tuple, shape: tuple[int, ...]) -> tuple[int, int] | None:
    """Returns the (second largest, largest) axis of a parameter, the layers' axis left out; None: not factored."""
    first = is_stacked(path)
    if len(shape) - first < 2:
        return None
    smaller, larger = (first + int(axis) for axis in np.argsort(shape[first:], kind="stable")[-2:])
    return (smaller, larger) if shape[smaller] >= MIN_DIM_SIZE_TO_FACTOR else None


def is_stacked(path: tuple) -> int:
    """1 for a leaf that holds all layers of a stack on axis 0, else 0."""
    return int(any(getattr(key, "key", None) == "layers" for key in path))


def _mean_square(g: jax.Array, axis: int) -> jax.Array:
    """Mean of squares over one axis."""
    columns = _block_columns(g, axis)
    if columns is None:
        return jnp.mean(jnp.square(g), axis=axis)
    blocks = g.reshape(*g.shape[:-1], -1, columns)
    means = jax.lax.map(
        lambda i: jnp.mean(jnp.square(jax.lax.dynamic_index_in_dim(blocks, i, axis=-2, keepdims=False)), axis=axis),
        jnp.arange(blocks.shape[-2]),
    )
    return jnp.moveaxis(means, 0, -2).reshape(np.delete(g.shape, axis))


def _block_columns(g: jax.Array, axis: int) -> int | None:
    """Returns how many columns to sum at once, None for all."""
    wide = axis < g.ndim - 1 and g.shape[-1] * g.dtype.itemsize > WIDE_ROW_BYTES
    if not wide or jax.default_backend() != "cpu":
        return None
    divisors = [n for n in range(BLOCK_COLUMNS, 0, -1) if g.shape[-1] % n == 0]
    return divisors[0] if divisors[0] >= BLOCK_COLUMNS // 16 else None


def _again(x: Any) -> Any:
    """Returns `x` behind a barrier: XLA computes from it anew what it would else store for several uses."""
    return jax.lax.optimization_barrier(x)


def _product(g, factors):
    for factor in factors:
        g = g * factor
    return g


def _rms(x, axes):
    return jnp.sqrt(jnp.mean(jnp.square(x), axis=axes, keepdims=True))


def _state(count: jax.Array, leaves: Any) -> optax.FactoredState:
    return optax.FactoredState(count=count, **{name: _pick(leaves, name) for name in ("v_row", "v_col", "v")})


def _pick(leaves: Any, name: str) -> Any:
    return jax.tree.map(lambda leaf: getattr(leaf, name), leaves, is_leaf=lambda x: isinstance(x, _Leaf))
