"""Span corruption loses nothing, hides as much as asked, and has exactly the lengths it announces."""

import doctest

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medmt5.errors import InputError
from medmt5.tokens import span_corruption
from medmt5.tokens.span_corruption import corrupt, raw_length, restore

SENTINELS = np.arange(1099, 999, -1, dtype=np.int32)
EOS = 1


@pytest.mark.parametrize(
    ("inputs_length", "raw", "targets"), [(1024, 1137, 229), (512, 568, 114), (480, 532, 108), (256, 284, 58)]
)
def test_lengths_are_those_of_t5(inputs_length, raw, targets):
    assert raw_length(inputs_length) == (raw, targets)


@given(st.integers(3, 400), st.integers(0, 2**32))
def test_full_chunks_have_exactly_the_announced_lengths(inputs_length, seed):
    raw, targets_length = raw_length(inputs_length)
    inputs, targets = corrupt(np.full(raw, 7), np.random.default_rng(seed), SENTINELS, EOS)
    assert len(targets) == targets_length
    assert inputs_length - 1 <= len(inputs) <= inputs_length


@given(
    st.lists(st.integers(2, 999), min_size=1, max_size=700),
    st.integers(0, 2**32),
    st.sampled_from([(0.15, 3.0), (0.5, 6.0), (0.3, 10.0)]),
)
def test_inputs_and_targets_give_the_text_back(tokens, seed, noise):
    text = np.array(tokens, np.int32)
    inputs, targets = corrupt(text, np.random.default_rng(seed), SENTINELS, EOS, *noise)
    padded = [np.pad(ids, (0, 5)) for ids in (inputs, targets)]
    assert restore(*padded, SENTINELS, EOS).tolist() == tokens
    assert inputs.dtype == targets.dtype == np.int32


@given(st.integers(1, 600), st.integers(0, 2**32))
def test_sentinels_come_in_order_in_both_and_eos_ends_both(length, seed):
    inputs, targets = corrupt(np.full(length, 7), np.random.default_rng(seed), SENTINELS, EOS)
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
    rng = np.random.default_rng(0)
    length, draws = 568, 2000
    hidden_at = np.zeros(length)
    for _ in range(draws):
        text = np.arange(2000, 2000 + length)
        inputs, targets = corrupt(text, rng, SENTINELS, EOS)
        spans = np.isin(inputs, SENTINELS).sum()
        hidden = targets[targets >= 2000] - 2000
        hidden_at[hidden] += 1
        assert len(hidden) == 85
        assert spans == 28
    # Away from the ends, which T5 fixes, every token is hidden equally often.
    middle = hidden_at[20:-20] / draws
    assert abs(middle.mean() - 0.15) < 0.005
    assert middle.std() < 3 * np.sqrt(0.15 * 0.85 / draws)


def test_span_lengths_are_uniform_over_compositions():
    """Ten items in three spans: 36 compositions, each equally likely, as T5's _random_segmentation has it."""
    rng = np.random.default_rng(0)
    counts: dict[tuple[int, ...], int] = {}
    for _ in range(7200):
        lengths = tuple(span_corruption._random_segmentation(10, 3, rng).tolist())
        assert sum(lengths) == 10
        counts[lengths] = counts.get(lengths, 0) + 1
    assert len(counts) == 36
    assert max(abs(n - 200) for n in counts.values()) < 5 * np.sqrt(200)


def test_the_generator_alone_decides():
    text = np.arange(2000, 2300)
    first, again, other = (corrupt(text, np.random.default_rng(s), SENTINELS, EOS)[0].tolist() for s in (3, 3, 4))
    assert first == again != other


def test_too_few_sentinels_is_an_input_error():
    with pytest.raises(InputError, match="28 spans, but the vocabulary has 27 sentinels"):
        corrupt(np.full(568, 7), np.random.default_rng(0), SENTINELS[:27], EOS)


def test_too_short_inputs_are_an_input_error():
    with pytest.raises(InputError, match="at least 3 tokens"):
        raw_length(2)


def test_examples_in_docstrings():
    assert doctest.testmod(span_corruption).failed == 0
