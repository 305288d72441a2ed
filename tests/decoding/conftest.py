"""The rules of tagged text a second time, as an enumeration, where only the meaning of choices is shared; and the
memory of the toy models that the searches extend."""

from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import pytest


def enumerate_outputs(word_lengths: tuple[int, ...], labels: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Yields the choices of every permitted output: the first word stands alone, or a label holds the first k words."""
    if not word_lengths:
        yield (1,)
        return
    for rest in enumerate_outputs(word_lengths[1:], labels):
        yield (0,) * word_lengths[0] + rest
    for k in range(1, len(word_lengths) + 1):
        for rest in enumerate_outputs(word_lengths[k:], labels):
            for label in labels:
                yield (2 + label, *(0,) * sum(word_lengths[:k]), 1, *rest)


class Memory(NamedTuple):
    """What a toy model has written."""

    written: jax.Array  # [batch, slots, features]

    def keep(self, order):
        return Memory(jnp.take_along_axis(self.written, order[..., None], axis=1))

    def grow(self, slots):
        return Memory(jnp.pad(self.written, ((0, 0), (0, slots - self.written.shape[1]), (0, 0))))

    def write(self, used, new):
        return Memory(jax.lax.dynamic_update_slice_in_dim(self.written, new, used, axis=1))


@pytest.fixture(scope="session")
def permitted_outputs():
    return enumerate_outputs


@pytest.fixture(scope="module")
def optimized():
    """For tests that run for longer than they compile, see tests/conftest.py."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture(scope="session")
def memory():
    """[batch, 0, features] -> a toy model's memory."""
    return Memory
