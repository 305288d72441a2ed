import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st
from seqeval.metrics import classification_report

from medmt5.annotation.spans import Span, tags_to_spans
from medmt5.evaluation.span_scores import Counts, Scores, score_spans

TAGS = st.sampled_from(["O", "O", "B-Drug", "I-Drug", "B-Disease", "I-Disease"])


@st.composite
def corpora(draw):
    """Draws (gold tags, predicted tags): sentences of equally many tags, some predicted as in gold."""
    gold = draw(st.lists(st.lists(TAGS, min_size=1, max_size=8), min_size=1, max_size=6))
    return gold, [draw(st.just(tags) | st.lists(TAGS, min_size=len(tags), max_size=len(tags))) for tags in gold]


def score_tags(gold, predicted):
    return score_spans([tags_to_spans(tags) for tags in gold], [tags_to_spans(tags) for tags in predicted])


@given(corpora())
def test_scores_are_those_of_seqeval(drawn):
    gold, predicted = drawn
    ours = score_tags(gold, predicted).to_json()
    if not ours["gold"] + ours["predicted"]:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # seqeval warns where a ratio is 0/0 and gives 0
        theirs = classification_report(gold, predicted, output_dict=True, zero_division=0)
    for name, scores in [("micro avg", ours), *ours["labels"].items()]:
        assert scores["gold"] == theirs[name]["support"]
        for ratio, their_ratio in (("f1", "f1-score"), ("precision", "precision"), ("recall", "recall")):
            assert (scores[ratio] or 0.0) == pytest.approx(theirs[name][their_ratio])


@given(corpora(), st.integers(0, 6))
def test_scores_of_parts_add_up_to_those_of_the_whole(drawn, cut):
    gold, predicted = drawn
    parts = score_tags(gold[:cut], predicted[:cut]) + score_tags(gold[cut:], predicted[cut:])
    assert parts == score_tags(gold, predicted)


@given(corpora())
def test_scores_come_back_from_json(drawn):
    scores = score_tags(*drawn)
    assert Scores.from_json(scores.to_json()) == scores


def test_a_ratio_of_nothing_is_undefined_not_zero_or_one():
    assert score_spans([[]], [[]]).f1 is None
    scores = score_spans([[Span(0, 1, "Drug")]], [[]]).to_json()
    assert (scores["f1"], scores["precision"], scores["recall"]) == (0.0, None, 0.0)


def test_start_end_and_label_must_all_be_right():
    gold = [[Span(0, 2, "Drug"), Span(3, 5, "Drug"), Span(6, 7, "Drug"), Span(8, 9, "Drug")]]
    predicted = [[Span(0, 1, "Drug"), Span(4, 5, "Drug"), Span(6, 7, "Disease"), Span(8, 9, "Drug")]]
    assert score_spans(gold, predicted).total == Counts(gold=4, predicted=4, correct=1)


def test_the_same_span_of_another_sentence_does_not_count():
    assert score_spans([[Span(0, 1, "Drug")], []], [[], [Span(0, 1, "Drug")]]).f1 == 0.0


def test_a_missing_sentence_is_refused():
    with pytest.raises(ValueError, match="there are 2 and 1"):
        score_spans([[], []], [[]])
