"""The order of examples, a new one each epoch.

Sorting random numbers makes every order equally likely, and the same one with any version of numpy. It takes a second
for eight million examples, once an epoch. Grain's own shuffle keeps no list, but works in a domain of at least 2^16: an
example of a set of 50 takes it two milliseconds.
"""

from __future__ import annotations

import threading
from functools import lru_cache

import numpy as np

from medmt5.tokens.random_numbers import make_keys, random_numbers


class Shuffle:
    """Endless draws from `size` examples: each of them once an epoch, in an order that `seed` and the epoch decide."""

    def __init__(self, size: int, seed: int):
        self._size, self._seed = size, seed
        # Two: a batch may end one epoch and begin the next.
        self._order_of = lru_cache(maxsize=2)(self._make_order)
        self._making = threading.Lock()  # one reading thread makes an order, the others wait for it

    def __call__(self, draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns (epochs, examples), [n] int64 each, of the draws [n], numbers from 0."""
        epochs, places = np.divmod(draws, self._size)
        examples = np.empty_like(places)
        for epoch in np.unique(epochs):
            now = epochs == epoch
            with self._making:
                order = self._order_of(int(epoch))
            examples[now] = order[places[now]]
        return epochs, examples

    def _make_order(self, epoch: int) -> np.ndarray:
        numbers = random_numbers(make_keys(self._seed, np.array([epoch])), self._size)[0]
        return np.argsort(numbers, kind="stable").astype(np.min_scalar_type(self._size))
