"""A 32-bit digest of every array of a tree, computed where the arrays lie.

Orbax restores a checkpoint with a flipped bit without a word. The digest sums each array's bit patterns, multiplied by
odd numbers that depend on the position, modulo 2^32: one wrong bit at place b changes the sum by an odd multiple of
2^b, which is never 0. It is a reduction, so sharded arrays are never gathered, and the same numbers give the same
digest on every mesh; the digests of an array's blocks add up to its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def tree_digests(tree: Any) -> dict[str, int]:
    """Returns path -> digest (0 to 2^32 - 1) of every leaf."""
    values = jax.device_get(_leaf_digests(tree))
    return {jax.tree_util.keystr(path): int(value) for path, value in jax.tree_util.tree_leaves_with_path(values)}


@jax.jit
def _leaf_digests(tree: Any) -> Any:
    return jax.tree.map(_digest, tree)


def _digest(x: jax.Array) -> jax.Array:
    bits = jax.lax.bitcast_convert_type(x, {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[x.dtype.itemsize]).astype(
        jnp.uint32
    )
    weights = jnp.uint32(1)
    stride = np.uint32(0x9E3779B1)  # any odd number; another one for each axis, so that swapped elements show
    for axis in range(bits.ndim):
        weights = weights + stride * jax.lax.broadcasted_iota(jnp.uint32, bits.shape, axis)
        stride = np.uint32((int(stride) * 0x85EBCA6B) & 0xFFFFFFFF)
    return jnp.sum(bits * (2 * weights + 1), dtype=jnp.uint32)


def block_digest(block: np.ndarray, start: Sequence[int]) -> int:
    """Returns the digest of a part of an array whose first element lies at `start`, in NumPy: those of parts that cover
    the array add up, modulo 2^32, to the digest of `tree_digests`.
    """
    bits = np.ascontiguousarray(block).view({1: np.uint8, 2: np.uint16, 4: np.uint32}[block.dtype.itemsize])
    weights: Any = np.uint32(1)
    stride = 0x9E3779B1
    for axis, first in enumerate(start):
        places = (np.arange(first, first + block.shape[axis], dtype=np.uint64) * stride).astype(np.uint32)
        weights = weights + places.reshape(-1, *(1,) * (block.ndim - axis - 1))
        stride = (stride * 0x85EBCA6B) & 0xFFFFFFFF
    return int(np.sum(bits.astype(np.uint32) * (2 * weights + 1), dtype=np.uint32))
