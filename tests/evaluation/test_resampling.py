"""Intervals and p-values are those of scipy, of all resamples and of all swaps, and hold what they promise."""

import doctest
from itertools import product

import numpy as np
import pytest
from scipy import stats

from medmt5.evaluation import resampling
from medmt5.evaluation.resampling import SEED, bootstrap_f1, compare_f1


def f1(counts):
    gold, predicted, correct = counts.sum(0)
    return 2 * correct / (gold + predicted) if gold + predicted else np.nan


def random_counts(rng, documents, quality=0.7):
    """Documents of unlike size and difficulty: [documents, 3] int64."""
    gold = rng.poisson(4, documents)
    correct = rng.binomial(gold, rng.beta(5 * quality, 5 * (1 - quality), documents))
    return np.stack([gold, correct + rng.poisson(1.5, documents), correct], axis=1)


def test_the_interval_is_scipys_for_the_same_draws():
    counts = random_counts(np.random.default_rng(1), 30)

    def statistic(i):
        i = np.asarray(i)
        return 2 * counts[i, 2].sum(-1) / (counts[i, 0].sum(-1) + counts[i, 1].sum(-1))

    theirs = stats.bootstrap(
        (np.arange(30),),
        lambda i, axis: statistic(i),
        n_resamples=1000,
        method="percentile",
        random_state=np.random.default_rng(SEED),
    ).confidence_interval
    [(low, high)] = bootstrap_f1(counts[:, None])
    assert (low, high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_the_interval_is_that_of_all_resamples(seed):
    counts = random_counts(np.random.default_rng(seed), 5)
    everything = [f1(counts[list(drawn)]) for drawn in product(range(5), repeat=5)]
    [(low, high)] = bootstrap_f1(counts[:, None], resamples=100_000)
    # The exact distribution has steps; ours lies between its neighbouring quantiles.
    for value, percent in ((low, 2.5), (high, 97.5)):
        below, above = np.nanpercentile(everything, [percent - 0.25, percent + 0.25])
        assert below - 1e-12 <= value <= above + 1e-12


def test_all_f1_are_resampled_together_in_blocks_of_any_size(monkeypatch):
    counts = np.stack([random_counts(np.random.default_rng(seed), 40) for seed in range(3)], axis=1)
    together = np.array(bootstrap_f1(counts))
    assert together == pytest.approx(np.array([bootstrap_f1(counts[:, k : k + 1])[0] for k in range(3)]))
    monkeypatch.setattr(resampling, "MAX_CELLS", 100)
    assert np.array(bootstrap_f1(counts)) == pytest.approx(together)


def test_what_cannot_be_drawn_or_divided_has_no_interval():
    one = np.array([[[3, 3, 2]]])
    assert bootstrap_f1(one) == [None]
    nothing = np.zeros((5, 1, 3), np.int64)
    assert bootstrap_f1(nothing) == [None]
    # Spans in one document of five: resamples without it are left out, not counted as 0 or 1.
    nothing[0] = 4, 4, 2
    assert bootstrap_f1(nothing) == [(0.5, 0.5)]


def test_the_interval_covers_the_truth_nearly_as_often_as_it_says():
    rng = np.random.default_rng(0)
    population = random_counts(rng, 1_000_000)
    truth = f1(population)
    samples = [population[rng.integers(len(population), size=100)] for _ in range(400)]
    intervals = [bootstrap_f1(sample[:, None], resamples=400)[0] for sample in samples]
    # Three deviations of 400 trials are 3.3 %; percentile intervals of 100 documents are a little short.
    assert 0.91 <= np.mean([low <= truth <= high for low, high in intervals]) <= 0.985


@pytest.mark.parametrize("seed", range(5))
def test_p_is_that_of_all_swaps(seed):
    rng = np.random.default_rng(seed)
    first = random_counts(rng, 9, 0.5)
    second = first.copy()
    second[:, 2] = rng.binomial(first[:, 0], 0.7)
    second[:, 1] = second[:, 2] + rng.poisson(0.7, 9)
    swaps = [np.array(swap, bool)[:, None] for swap in product((False, True), repeat=9)]
    differences = [f1(np.where(s, first, second)) - f1(np.where(s, second, first)) for s in swaps]
    observed = f1(second) - f1(first)
    exact = np.mean(np.abs(differences) >= abs(observed) - 1e-12)
    found = compare_f1(first, second)
    assert found.f1 == pytest.approx(observed)
    assert found.p == pytest.approx(exact, abs=4 * np.sqrt(exact * (1 - exact) / 10_000) + 2e-4)
    assert compare_f1(second, first).p == pytest.approx(found.p, abs=0.02)


def test_the_interval_of_the_difference_is_that_of_all_resamples():
    rng = np.random.default_rng(2)
    first = random_counts(rng, 5, 0.5)
    second = np.stack([first[:, 0], first[:, 0], rng.binomial(first[:, 0], 0.8)], axis=1)
    drawn = [list(i) for i in product(range(5), repeat=5)]
    everything = [f1(second[i]) - f1(first[i]) for i in drawn]
    found = compare_f1(first, second, resamples=100_000, shuffles=10)
    for value, percent in zip(found.interval, (2.5, 97.5), strict=True):
        below, above = np.nanpercentile(everything, [percent - 0.25, percent + 0.25])
        assert below - 1e-12 <= value <= above + 1e-12


def test_runs_that_are_alike_are_told_apart_as_seldom_as_p_says():
    rng = np.random.default_rng(3)
    p = []
    for _ in range(300):
        gold = rng.poisson(4, 40)
        correct = rng.binomial(gold[:, None], rng.beta(3, 2, 40)[:, None], (40, 2))
        runs = [np.stack([gold, correct[:, k] + rng.poisson(1, 40), correct[:, k]], axis=1) for k in range(2)]
        p.append(compare_f1(*runs, resamples=2, shuffles=500).p)
    # Uniform between 0 and 1: three deviations of 300 trials.
    assert np.mean(np.array(p) <= 0.05) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 300)
    assert np.mean(np.array(p) <= 0.5) == pytest.approx(0.5, abs=3 * np.sqrt(0.25 / 300))


def test_equal_runs_have_p_1_and_a_better_one_a_small_p():
    counts = random_counts(np.random.default_rng(4), 60)
    same = compare_f1(counts, counts)
    assert (same.f1, same.interval, same.p) == (0.0, (0.0, 0.0), 1.0)
    perfect = np.stack([counts[:, 0]] * 3, axis=1)
    better = compare_f1(counts, perfect)
    assert better.p == 1 / 10_001
    assert better.interval[0] > 0


def test_other_gold_is_refused_and_no_gold_has_no_difference():
    one = np.array([[2, 1, 1], [3, 3, 3]])
    with pytest.raises(ValueError, match="their gold spans differ"):
        compare_f1(one, one + 1)
    assert compare_f1(one * [0, 1, 0], one * [0, 1, 0]) is None
    assert compare_f1(one[:1], one[:1]).interval is None


def test_examples_in_docstrings():
    assert doctest.testmod(resampling).failed == 0
