"""Span corruption loses nothing, hides as much as asked, and has exactly the lengths it announces."""

import doctest

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medmt5.errors import InputError
from medmt5.tokens import span_corruption
from medmt5.tokens.random_numbers import make_keys, random_numbers
from medmt5.tokens.span_corruption import corrupt, raw_length, restore

SENTINELS = np.arange(1099, 999, -1, dtype=np.int32)
EOS = 1


def corrupt_one(text, key, *noise):
    inputs, targets = corrupt(np.array(text, np.int32)[None], np.array([key], np.uint64), SENTINELS, EOS, *noise)
    return inputs[0], targets[0]


@pytest.mark.parametrize(
    ("inputs_length", "raw", "targets"), [(1024, 1137, 229), (512, 568, 114), (480, 532, 108), (256, 284, 58)]
)
def test_lengths_are_those_of_t5(inputs_length, raw, targets):
    assert raw_length(inputs_length) == (raw, targets)


@given(st.integers(3, 400), st.integers(0, 2**64 - 1))
def test_full_chunks_have_exactly_the_announced_lengths(inputs_length, seed):
    raw, targets_length = raw_length(inputs_length)
    inputs, targets = corrupt_one([7] * raw, seed)
    assert len(targets) == targets_length
    assert inputs_length - 1 <= len(inputs) <= inputs_length


@given(
    st.lists(st.integers(2, 999), min_size=1, max_size=700),
    st.integers(0, 2**64 - 1),
    st.sampled_from([(0.15, 3.0), (0.5, 6.0), (0.3, 10.0)]),
)
def test_inputs_and_targets_give_the_text_back(tokens, seed, noise):
    inputs, targets = corrupt_one(tokens, seed, *noise)
    padded = [np.pad(ids, (0, 5)) for ids in (inputs, targets)]
    assert restore(*padded, SENTINELS, EOS).tolist() == tokens
    assert inputs.dtype == targets.dtype == np.int32


@given(st.integers(1, 600), st.integers(0, 2**64 - 1))
def test_sentinels_come_in_order_in_both_and_eos_ends_both(length, seed):
    inputs, targets = corrupt_one([7] * length, seed)
    of_inputs, of_targets = (ids[np.isin(ids, SENTINELS)] for ids in (inputs, targets))
    assert of_targets.tolist() == SENTINELS[: len(of_targets)].tolist()
    assert inputs[-1] == targets[-1] == EOS
    if length == 1:
        assert inputs.tolist() == [7, EOS]
    else:
        assert of_inputs.tolist() == of_targets.tolist()
        assert inputs[0] == 7, "a text starts with a kept token"
        assert inputs[-2] == of_inputs[-1], "and ends with a hidden one"


def test_noise_density_mean_span_and_their_places_are_as_asked():
    length, draws = 568, 4000
    texts = np.tile(np.arange(2000, 2000 + length, dtype=np.int32), (draws, 1))
    inputs, targets = corrupt(texts, make_keys(0, np.arange(draws)), SENTINELS, EOS)
    assert (np.isin(inputs, SENTINELS).sum(axis=1) == 28).all()
    hidden = targets[targets >= 2000].reshape(draws, -1)
    assert hidden.shape[1] == 85
    hidden_at = np.bincount(hidden.ravel() - 2000, minlength=length)
    # Away from the ends, which T5 fixes, every token is hidden equally often.
    middle = hidden_at[20:-20] / draws
    assert abs(middle.mean() - 0.15) < 0.005
    assert middle.std() < 3 * np.sqrt(0.15 * 0.85 / draws)


def test_span_lengths_are_uniform_over_compositions():
    """Ten items in three spans: 36 compositions, each equally likely, as T5's _random_segmentation has it."""
    numbers = random_numbers(make_keys(0, np.arange(7200)), 9)
    lengths = span_corruption._random_segmentations(10, 3, numbers)
    assert (lengths.sum(axis=1) == 10).all()
    assert (lengths >= 1).all()
    _, counts = np.unique(lengths, axis=0, return_counts=True)
    assert len(counts) == 36
    assert abs(counts - 200).max() < 5 * np.sqrt(200)


def test_kept_and_hidden_spans_are_independent():
    """A text of 20 tokens with 8 hidden in 2 spans: 11 places to cut the kept ones, 7 for the hidden ones."""
    draws = 7700
    texts = np.tile(np.arange(2000, 2020, dtype=np.int32), (draws, 1))
    inputs, targets = corrupt(texts, make_keys(0, np.arange(draws)), SENTINELS, EOS, 0.4, 4.0)
    first_kept, first_hidden = (np.argmax(ids == SENTINELS[i], axis=1) for ids, i in ((inputs, 0), (targets, 1)))
    _, counts = np.unique(np.stack([first_kept, first_hidden]), axis=1, return_counts=True)
    assert len(counts) == 77
    assert abs(counts - 100).max() < 5 * np.sqrt(100)


def test_the_key_alone_decides():
    text = np.arange(2000, 2300)
    first, again, other = (corrupt_one(text, key)[0].tolist() for key in (3, 3, 4))
    assert first == again != other


@given(st.integers(1, 80), st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=9))
def test_a_row_is_the_same_alone_and_among_others(length, keys):
    texts = np.random.default_rng(0).integers(2, 999, (len(keys), length)).astype(np.int32)
    together = corrupt(texts, np.array(keys, np.uint64), SENTINELS, EOS)
    for row, (text, key) in enumerate(zip(texts, keys, strict=True)):
        for whole, alone in zip(together, corrupt_one(text, key), strict=True):
            assert whole[row].tolist() == alone.tolist()


def test_too_few_sentinels_is_an_input_error():
    with pytest.raises(InputError, match="28 spans, but the vocabulary has 27 sentinels"):
        corrupt(np.full((1, 568), 7), np.zeros(1, np.uint64), SENTINELS[:27], EOS)


def test_too_short_inputs_are_an_input_error():
    with pytest.raises(InputError, match="at least 3 tokens"):
        raw_length(2)


def test_examples_in_docstrings():
    assert doctest.testmod(span_corruption).failed == 0
