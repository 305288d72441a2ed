"""Random numbers are SplitMix64's, and a row is a function of its key alone."""

import doctest

import numpy as np

from medmt5.tokens import random_numbers
from medmt5.tokens.random_numbers import make_keys


def test_numbers_are_those_of_splitmix64():
    """The first five of seed 1234567, as the reference implementation gives them."""
    assert random_numbers.random_numbers(np.array([9, 1234567], np.uint64), 5)[1].tolist() == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


def test_every_counter_and_the_seed_change_a_key():
    epochs, examples = (grid.ravel() for grid in np.meshgrid(np.arange(50), np.arange(200)))
    keys = np.concatenate([make_keys(seed, epochs, examples) for seed in (0, 1, 2**64 - 1)])
    assert len(set(keys.tolist())) == len(keys)
    assert make_keys(1, epochs, examples)[7] == make_keys(1, epochs[7:8], examples[7:8])[0]


def test_examples_in_docstrings():
    assert doctest.testmod(random_numbers).failed == 0
