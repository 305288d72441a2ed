"""Random numbers that are a function of a key, for many keys at once.

A numpy generator is one stream: with one a batch, the numbers of an example would depend on its neighbours, and one an
example costs more than what is done with them. Here a row of numbers depends on its key alone, so that an example gets
the same noise in a batch of any size and on any number of hosts.

The generator is SplitMix64 (Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators"): number i of a
key is a bijective mix of key + (i + 1) * GAMMA.
"""

from __future__ import annotations

import numpy as np

GAMMA = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio, odd


def random_numbers(keys: np.ndarray, count: int) -> np.ndarray:
    """Returns [rows, count] uint64, uniformly distributed, for keys [rows] uint64.

    >>> random_numbers(np.array([1234567], np.uint64), 2).tolist()
    [[6457827717110365317, 3203168211198807973]]
    """
    return _mix(keys[:, None] + np.arange(1, count + 1, dtype=np.uint64) * GAMMA)


def make_keys(seed: int, *counters: np.ndarray) -> np.ndarray:
    """Returns [rows] uint64: a key for each tuple of the counters, [rows] integers each, and the 64-bit seed."""
    keys = np.full(np.shape(counters[0]), seed, np.uint64)
    for counter in counters:
        keys = _mix(keys + (counter.astype(np.uint64) + np.uint64(1)) * GAMMA)
    return keys


def _mix(z: np.ndarray) -> np.ndarray:
    """Returns the mix of z, uint64; changes z."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        z ^= z >> np.uint64(shift)
        z *= np.uint64(factor)
    z ^= z >> np.uint64(31)
    return z
