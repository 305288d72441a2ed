"""The rules of tagged text a second time, as an enumeration; only the meaning of choices is shared."""

from collections.abc import Iterator

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


@pytest.fixture(scope="session")
def permitted_outputs():
    return enumerate_outputs
