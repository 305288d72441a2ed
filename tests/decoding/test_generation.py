"""Free decoding returns what exhaustive search and teacher forcing return; samples are draws from the softmax.

The toy model is a table: a random row of logits for every prefix, which is told by the tokens that a node sees. Two
prefixes share nothing, so a hypothesis that sees another's tokens gets other scores.
"""

import itertools
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chisquare

from medmt5.decoding import beam, generation
from medmt5.decoding.beam import of_parents

EOS = 1


def random_models(models, vocab, num_steps, seed=0):
    """Returns logits [models, prefixes, vocab] float32.

    The empty prefix is 0; a prefix and one more token is prefix * vocab + token + 1.
    """
    prefixes = sum(vocab**t for t in range(num_steps))
    return np.random.default_rng(seed).normal(0, 2, (models, prefixes, vocab)).astype(np.float32)


class ToyMemory(NamedTuple):
    tokens: jax.Array  # [batch, slots] int32
    positions: jax.Array

    def grow(self, slots):
        return ToyMemory(*(jnp.pad(x, ((0, 0), (0, slots - x.shape[1]))) for x in self))


def toy(logits, row_models):
    """Returns (extend, memory, kernel): row i is written by the model `row_models[i]`."""
    vocab = logits.shape[-1]
    logits, row_models = jnp.asarray(logits), jnp.asarray(row_models)

    def extend(memory, used, tokens, positions, visible):
        new = (tokens, positions)
        memory = ToyMemory(
            *(jax.lax.dynamic_update_slice_in_dim(x, y, used, 1) for x, y in zip(memory, new, strict=True))
        )
        after = positions[:, :, None] - memory.positions[:, None]
        counts = visible & (memory.positions > 0)[:, None]  # what the decoder starts with is no token of the prefix
        prefix = jnp.sum(jnp.where(counts, (memory.tokens + 1)[:, None] * vocab ** after.clip(0), 0), axis=-1)
        return logits[row_models[:, None], prefix], memory

    empty = jnp.zeros((row_models.shape[0], 0), jnp.int32)
    return extend, ToyMemory(empty, empty), jnp.eye(vocab)


@partial(jax.jit, static_argnames=("beam_size", "num_steps", "normalize_length"))
def search(logits, *, beam_size, num_steps, normalize_length):
    models = logits.shape[0]
    return generation.search_tokens(
        *toy(logits, np.arange(models)),
        batch=models,
        beam_size=beam_size,
        num_steps=num_steps,
        normalize_length=normalize_length,
    )


@partial(jax.jit, static_argnames=("num_steps", "top_p", "temperature"))
def sample(logits, row_models, seeds, *, num_steps, top_p=1.0, temperature=1.0):
    return generation.sample_tokens(
        *toy(logits, row_models), seeds, num_steps=num_steps, top_p=top_p, temperature=temperature
    )


def log_softmax(logits):
    logits = logits.astype(np.float64)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def all_outputs(vocab, num_steps):
    """Every output: ended by EOS, or cut at `num_steps`."""
    others = [token for token in range(vocab) if token != EOS]
    ended = [(*words, EOS) for n in range(num_steps) for words in itertools.product(others, repeat=n)]
    return ended + list(itertools.product(others, repeat=num_steps))


def totals(log_probs, output):
    """[models, prefixes, vocab] -> the output's log-probability under each model."""
    total, prefix, vocab = 0.0, 0, log_probs.shape[-1]
    for token in output:
        total = total + log_probs[:, prefix, token]
        prefix = prefix * vocab + token + 1
    return total


def outputs_of(found, row):
    """{tokens: log-probability} of a row, best first, asserting that there is only padding after each output."""
    made = {}
    for tokens, log_prob, length in zip(found.tokens[row], found.log_probs[row], found.lengths[row], strict=True):
        assert not np.any(tokens[length:])
        assert (length > 0) == np.isfinite(log_prob)
        if length:
            output = tuple(tokens[:length].tolist())
            assert EOS not in output[:-1]
            assert output[-1] == EOS or length == found.tokens.shape[-1]
            assert output not in made
            made[output] = float(log_prob)
    return made


@pytest.mark.parametrize("normalize_length", [True, False])
@pytest.mark.parametrize(("vocab", "num_steps"), [(2, 5), (4, 4)])
def test_a_beam_as_wide_as_the_outputs_ranks_all_of_them_as_brute_force(vocab, num_steps, normalize_length):
    outputs = all_outputs(vocab, num_steps)
    logits = random_models(100, vocab, num_steps)
    found = jax.device_get(
        search(logits, beam_size=len(outputs) + 1, num_steps=num_steps, normalize_length=normalize_length)
    )
    expected = {output: totals(log_softmax(logits), output) for output in outputs}
    for model in range(len(logits)):
        made = outputs_of(found, model)
        assert made == pytest.approx({output: of_models[model] for output, of_models in expected.items()}, abs=2e-5)
        ranks = [total / len(output) if normalize_length else total for output, total in made.items()]
        assert ranks == pytest.approx(sorted(ranks, reverse=True), abs=1e-6)


def reference_beam(log_probs, num_steps, beam_size, normalize_length):
    """Beam search in plain Python for one model [prefixes, vocab]: finished and open ones compete at every step."""
    vocab = log_probs.shape[-1]
    hypotheses = {(): 0.0}

    def rank(item):
        return item[1] / len(item[0]) if normalize_length else item[1]

    for _ in range(num_steps):
        extended = {}
        for output, total in hypotheses.items():
            if EOS in output:
                extended[output] = total
                continue
            prefix = 0
            for token in output:
                prefix = prefix * vocab + token + 1
            for token in range(vocab):
                extended[*output, token] = total + log_probs[prefix, token]
        hypotheses = dict(sorted(extended.items(), key=rank, reverse=True)[:beam_size])
    return hypotheses


@pytest.mark.parametrize("normalize_length", [True, False])
def test_a_narrow_beam_equals_a_plain_python_search(normalize_length):
    logits = random_models(100, 5, 4)
    found = jax.device_get(search(logits, beam_size=3, num_steps=4, normalize_length=normalize_length))
    for model, log_probs in enumerate(log_softmax(logits)):
        made, expected = outputs_of(found, model), reference_beam(log_probs, 4, 3, normalize_length)
        assert list(made) == list(expected)
        assert made == pytest.approx(expected, abs=2e-5)


def test_the_toy_model_notices_a_hypothesis_that_sees_what_another_wrote(monkeypatch):
    monkeypatch.setattr(beam, "of_parents", lambda tree, parent: (of_parents(tree[0], parent), tree[1]))
    logits = random_models(100, 5, 4)
    found = jax.device_get(search.__wrapped__(logits, beam_size=3, num_steps=4, normalize_length=True))
    wrong = sum(
        outputs_of(found, model) != pytest.approx(reference_beam(log_probs, 4, 3, True), abs=2e-5)
        for model, log_probs in enumerate(log_softmax(logits))
    )
    assert wrong > 50


def test_greedy_takes_the_likeliest_token_and_a_hopeless_nucleus_is_greedy():
    logits = random_models(200, 4, 5)
    greedy = search(logits, beam_size=1, num_steps=5, normalize_length=False)
    drawn = sample(logits, np.arange(200), np.arange(200, dtype=np.uint32), num_steps=5, top_p=1e-9)
    np.testing.assert_array_equal(greedy.tokens, drawn.tokens)
    np.testing.assert_array_equal(greedy.log_probs, drawn.log_probs)
    for model, tokens in enumerate(np.asarray(greedy.tokens[:, 0])):
        output, prefix = [], 0
        while EOS not in output and len(output) < 5:
            output.append(int(np.argmax(logits[model, prefix])))
            prefix = prefix * 4 + output[-1] + 1
        assert tokens.tolist() == output + [0] * (5 - len(output))


def test_an_overflowing_model_still_writes():
    logits = random_models(100, 5, 4)
    logits[:30], logits[30:60, :, 2], logits[60:, 0] = np.nan, np.inf, -np.inf
    seeds = np.arange(100, dtype=np.uint32)
    for found in (
        search(logits, beam_size=3, num_steps=4, normalize_length=True),
        sample(logits, np.arange(100), seeds, num_steps=4, top_p=0.9, temperature=1e-3),
    ):
        assert np.all(np.isfinite(found.log_probs))
        assert np.all(found.lengths > 0)


@pytest.mark.parametrize(("top_p", "temperature"), [(1.0, 1.0), (1.0, 0.5), (0.8, 1.5)])
def test_samples_are_draws_from_the_softmax_of_the_nucleus(top_p, temperature):
    logits = random_models(1, 4, 2)
    rows = 4000
    found = sample(
        logits,
        np.zeros(rows, np.int32),
        np.arange(rows, dtype=np.uint32),
        num_steps=2,
        top_p=top_p,
        temperature=temperature,
    )
    tokens = np.asarray(found.tokens[:, 0])
    seen_after = {0: tokens[:, 0]} | {t + 1: tokens[tokens[:, 0] == t, 1] for t in (0, 2, 3)}
    tested = 0
    for prefix, drawn in seen_after.items():
        expected = np.exp(log_softmax(logits[0, prefix] / temperature))
        order = np.argsort(-expected)
        expected[order[np.cumsum(expected[order]) - expected[order] >= top_p]] = 0
        expected /= expected.sum()
        counts = np.bincount(drawn, minlength=4)
        assert not np.any(counts[expected == 0])
        if len(drawn) > 100 and np.sum(expected > 0) > 1:
            assert chisquare(counts[expected > 0], len(drawn) * expected[expected > 0]).pvalue > 1e-3
            tested += 1
    assert tested >= 2
    assert not np.any(tokens[tokens[:, 0] == EOS, 1])
    scores = {output: totals(log_softmax(logits), output)[0] for output in all_outputs(4, 2)}
    for row, log_prob in zip(tokens.tolist(), found.log_probs[:, 0].tolist(), strict=True):
        assert log_prob == pytest.approx(scores[(EOS,) if row[0] == EOS else tuple(row)], abs=2e-5)


def test_a_row_is_a_function_of_its_seed():
    logits = random_models(20, 4, 5)
    seeds = np.arange(20, dtype=np.uint32)
    first = sample(logits, np.arange(20), seeds, num_steps=5)
    np.testing.assert_array_equal(first.tokens, sample(logits, np.arange(20), seeds, num_steps=5).tokens)
    assert np.any(first.tokens != sample(logits, np.arange(20), seeds + 100, num_steps=5).tokens)
    some = np.random.default_rng(0).integers(0, 20, 20)
    np.testing.assert_array_equal(first.tokens[some], sample(logits, some, seeds[some], num_steps=5).tokens)


def test_a_nucleus_is_the_smallest_set_with_its_probability():
    rng = np.random.default_rng(1)
    probabilities = rng.dirichlet(np.full(50, 0.3), 300).astype(np.float32)
    for top_p in (1e-30, 0.1, 0.5, 0.9, 0.999):
        kept = np.asarray(generation.keep_nucleus(probabilities, top_p))
        for row, keep in zip(probabilities.astype(np.float64), kept, strict=True):
            descending = np.sort(row)[::-1]
            size = int(np.searchsorted(np.cumsum(descending), top_p - 1e-7)) + 1
            assert np.sum(keep) == size
            assert row[keep].min() == descending[size - 1]
    ties = np.array([[0.4, 0.2, 0.2, 0.2, 0.0]], np.float32)
    assert generation.keep_nucleus(ties, 0.5).tolist() == [[True, True, True, True, False]]
    assert generation.keep_nucleus(ties, 0.4).tolist() == [[True, False, False, False, False]]
    few = np.array([[0.6, 0.3, 0.0]], np.float32)  # rounding may leave less than 1
    assert generation.keep_nucleus(few, 1.0).tolist() == [[True, True, True]]


def test_impossible_settings_are_refused_with_the_numbers():
    logits, rows, seeds = random_models(2, 3, 2), np.arange(2), np.arange(2, dtype=np.uint32)
    for top_p in (0.0, 1.5, float("nan")):
        with pytest.raises(ValueError, match=f"\\(0, 1\\], not {top_p}"):
            sample(logits, rows, seeds, num_steps=2, top_p=top_p)
    with pytest.raises(ValueError, match=r"above 0, not 0\.0"):
        sample(logits, rows, seeds, num_steps=2, temperature=0.0)
