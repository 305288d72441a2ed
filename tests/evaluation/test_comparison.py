"""Kinds of errors divide gold and predicted spans, and are what a search over all overlaps finds."""

import doctest
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medmt5.annotation.spans import Span, tags_to_spans
from medmt5.evaluation import comparison
from medmt5.evaluation.comparison import KINDS, Case, compare_spans, count_kinds
from medmt5.evaluation.span_scores import Counts, score_spans

SPANS = st.lists(st.sampled_from(["O", "B-Drug", "I-Drug", "B-Disease"]), max_size=14).map(tags_to_spans)
SWAPPED = {kind: kind for kind in KINDS} | {
    "missed": "spurious",
    "spurious": "missed",
    "split": "merged",
    "merged": "split",
}


@pytest.mark.parametrize(
    ("predicted", "kinds"),
    [
        ([Span(2, 5, "Drug")], ["correct"]),
        ([], ["missed"]),
        ([Span(6, 7, "Drug")], ["missed", "spurious"]),
        ([Span(2, 5, "Disease")], ["wrong label"]),
        ([Span(2, 4, "Disease")], ["wrong label"]),
        ([Span(2, 4, "Drug")], ["wrong boundary"]),
        ([Span(1, 6, "Drug")], ["wrong boundary"]),
        ([Span(2, 3, "Drug"), Span(4, 5, "Disease")], ["split"]),
        ([Span(0, 2, "Drug"), Span(5, 6, "Drug")], ["spurious", "missed", "spurious"]),
    ],
)
def test_each_kind_of_error_is_told_apart(predicted, kinds):
    assert [case.kind for case in compare_spans([Span(2, 5, "Drug")], predicted)] == kinds


def test_several_gold_spans_under_one_prediction_are_merged_and_chains_are_tangled():
    gold = [Span(0, 1, "Drug"), Span(1, 4, "Disease")]
    assert compare_spans(gold, [Span(0, 4, "Drug")]) == [Case("merged", tuple(gold), (Span(0, 4, "Drug"),))]
    [case] = compare_spans(gold, [Span(0, 2, "Drug"), Span(3, 6, "Drug")])
    assert case.kind == "tangled"


def overlap(one, other):
    return bool(set(range(one.start, one.end)) & set(range(other.start, other.end)))


def kinds_by_search(gold, predicted):
    """Each (side, span) -> its kind, from closures of the overlap relation over sets of words."""
    nodes = [("gold", span) for span in gold] + [("predicted", span) for span in predicted]
    kinds = {}
    for node in nodes:
        group = {node}
        while grown := {n for n in nodes if n not in group and any(overlap(n[1], m[1]) for m in group)}:
            group |= grown
        golds = [span for side, span in group if side == "gold"]
        others = [span for side, span in group if side == "predicted"]
        match (len(golds), len(others)):
            case (_, 0):
                kinds[node] = "missed"
            case (0, _):
                kinds[node] = "spurious"
            case (1, 1):
                equal, same_label = golds == others, golds[0].label == others[0].label
                kinds[node] = "correct" if equal else "wrong boundary" if same_label else "wrong label"
            case (1, _):
                kinds[node] = "split"
            case (_, 1):
                kinds[node] = "merged"
            case _:
                kinds[node] = "tangled"
    return kinds


@given(SPANS, SPANS)
def test_kinds_divide_all_spans_and_are_those_of_a_search(gold, predicted):
    cases = compare_spans(gold, predicted)
    assert [span for case in cases for span in case.gold] == gold
    assert [span for case in cases for span in case.predicted] == predicted
    found = {("gold", span): case.kind for case in cases for span in case.gold}
    found |= {("predicted", span): case.kind for case in cases for span in case.predicted}
    assert found == kinds_by_search(gold, predicted)


@given(SPANS, SPANS)
def test_counts_add_up_to_the_spans_and_the_correct_ones_to_the_strict_score(gold, predicted):
    counts = count_kinds(compare_spans(gold, predicted))
    assert set(counts) == set(KINDS)
    assert sum(counts.values(), Counts()) == score_spans([gold], [predicted]).total
    numbers = {kind: (count.gold, count.predicted) for kind, count in counts.items()}
    assert numbers["missed"][1] == numbers["spurious"][0] == 0
    assert all(numbers[kind][0] == numbers[kind][1] for kind in ("correct", "wrong label", "wrong boundary"))
    assert 2 * numbers["split"][0] <= numbers["split"][1]
    assert 2 * numbers["merged"][1] <= numbers["merged"][0]


@given(SPANS, SPANS)
def test_swapping_gold_and_predicted_swaps_the_kinds(gold, predicted):
    there, back = compare_spans(gold, predicted), compare_spans(predicted, gold)
    assert Counter(SWAPPED[case.kind] for case in there) == Counter(case.kind for case in back)


def test_examples_in_docstrings():
    assert doctest.testmod(comparison).failed == 0
