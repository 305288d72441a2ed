"""Strict, exact, partial and type are what the best of all one-to-one pairings is worth."""

import doctest
from itertools import permutations

from hypothesis import given
from hypothesis import strategies as st

from medmt5.annotation.spans import Span, tags_to_spans
from medmt5.evaluation import partial_scores
from medmt5.evaluation.partial_scores import WAYS, count_pairs, score_ways
from medmt5.evaluation.span_scores import Counts, score_spans

SPANS = (
    st.lists(st.sampled_from(["O", "B-Drug", "I-Drug", "B-Disease", "I-Disease"]), max_size=9)
    .map(tags_to_spans)
    .filter(lambda spans: len(spans) <= 5)
)


def worth(gold, predicted, way):
    """What one pair is worth, from the table of the module's docstring."""
    same_boundary, same_label = gold[:2] == predicted[:2], gold.label == predicted.label
    return {
        "strict": float(same_boundary and same_label),
        "exact": float(same_boundary),
        "partial": 1.0 if same_boundary else 0.5,
        "type": float(same_label),
    }[way]


def best_pairing(gold, predicted, way):
    """The largest sum over all injections of the shorter side into the longer one."""
    shorter, longer = sorted([gold, predicted], key=len)
    best = 0.0
    for chosen in permutations(longer, len(shorter)):
        pairs = [(a, b) for a, b in zip(shorter, chosen, strict=True) if a.start < b.end and b.start < a.end]
        best = max(best, sum(worth(a, b, way) for a, b in pairs))
    return best


@given(SPANS, SPANS)
def test_every_way_is_the_best_of_all_pairings(gold, predicted):
    ways = score_ways(gold, predicted)
    assert tuple(ways) == WAYS
    for way, counts in ways.items():
        assert counts == Counts(len(gold), len(predicted), best_pairing(gold, predicted, way)), way


@given(SPANS, SPANS)
def test_ways_are_ordered_and_symmetric(gold, predicted):
    correct = {way: counts.correct for way, counts in score_ways(gold, predicted).items()}
    assert correct["strict"] == score_spans([gold], [predicted]).total.correct
    assert correct["strict"] <= correct["exact"] <= correct["partial"] <= min(len(gold), len(predicted))
    assert correct["strict"] <= correct["type"] <= count_pairs(gold, predicted)
    assert {way: counts.correct for way, counts in score_ways(predicted, gold).items()} == correct


@given(SPANS)
def test_a_label_for_all_makes_exact_the_strict_score(gold):
    predicted = [Span(start, end, "Other") for start, end, _ in gold]
    ways = score_ways(gold, predicted)
    assert ways["exact"].correct == ways["partial"].correct == len(gold)
    assert ways["strict"].correct == ways["type"].correct == 0


def test_a_chain_pairs_as_many_as_it_can():
    gold = [Span(0, 4, "Drug"), Span(4, 6, "Drug")]
    predicted = [Span(0, 1, "Drug"), Span(3, 5, "Drug")]
    assert score_ways(gold, predicted)["partial"] == Counts(2, 2, 1.0)
    assert score_ways(gold, predicted)["type"] == Counts(2, 2, 2)


def test_examples_in_docstrings():
    assert doctest.testmod(partial_scores).failed == 0
