"""Each example once an epoch, every order equally likely, and any place known without those before it."""

import itertools

import numpy as np
import pytest

from medmt5.tokens.shuffle import Shuffle


@pytest.mark.parametrize("size", [1, 2, 7, 255, 256, 300, 70_000])
def test_each_example_comes_once_an_epoch(size):
    epochs, examples = Shuffle(size, seed=1)(np.arange(3 * size))
    assert epochs.tolist() == [0] * size + [1] * size + [2] * size
    for epoch in examples.reshape(3, size):
        assert np.array_equal(np.sort(epoch), np.arange(size))


def test_orders_of_epochs_and_seeds_differ():
    orders = [Shuffle(300, seed)(np.arange(900))[1].reshape(3, 300) for seed in (1, 2)]
    for a, b in itertools.combinations(np.concatenate(orders), 2):
        assert (a == b).sum() < 10  # one is expected


def test_every_order_is_equally_likely():
    _, examples = Shuffle(4, seed=0)(np.arange(4 * 4800))
    _, counts = np.unique(examples.reshape(-1, 4), axis=0, return_counts=True)
    assert len(counts) == 24
    assert abs(counts - 200).max() < 5 * np.sqrt(200)


def test_a_draw_is_the_same_alone_and_among_others():
    whole = Shuffle(50, seed=3)(np.arange(1000))
    again = Shuffle(50, seed=3)
    for draw in [999, 0, 523, 49, 50]:
        epoch, example = again(np.array([draw]))
        assert (epoch[0], example[0]) == (whole[0][draw], whole[1][draw])
