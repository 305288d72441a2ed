import pytest
from hypothesis import given
from hypothesis import strategies as st

from medmt5.annotation.spans import Span, tags_to_spans
from medmt5.evaluation.comparison import compare_spans
from medmt5.evaluation.span_scores import score_spans

SPANS = st.lists(st.sampled_from(["O", "B-Drug", "I-Drug", "B-Disease"]), max_size=10).map(tags_to_spans)


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
        ([Span(2, 3, "Drug"), Span(4, 5, "Drug")], ["wrong boundary", "wrong boundary"]),
    ],
)
def test_each_kind_of_error_is_told_apart(predicted, kinds):
    assert [finding.kind for finding in compare_spans([Span(2, 5, "Drug")], predicted)] == kinds


def test_a_prediction_over_two_spans_is_held_against_the_one_it_shares_most_with():
    [finding] = compare_spans([Span(0, 1, "Drug"), Span(1, 4, "Disease")], [Span(0, 4, "Drug")])
    assert (finding.kind, finding.gold) == ("wrong label", Span(1, 4, "Disease"))


@given(SPANS, SPANS)
def test_findings_never_overlap_and_agree_with_the_scores(gold, predicted):
    findings = compare_spans(gold, predicted)
    places = [position for finding in findings for position in range(finding.span.start, finding.span.end)]
    assert places == sorted(set(places))
    assert sum(finding.kind == "correct" for finding in findings) == score_spans([gold], [predicted]).total.correct
    assert [finding.span for finding in findings if finding.kind != "missed"] == predicted
