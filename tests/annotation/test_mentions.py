import pytest

from medmt5.annotation.mentions import Mentions
from medmt5.annotation.repairs import Repairs
from medmt5.annotation.spans import Span
from medmt5.errors import InputError

TEXT = "Breast and ovarian\ncancer, fever."


@pytest.fixture
def mentions():
    return Mentions(TEXT, {"dis": "Disease", "gene": None}, Repairs(), "x.ann")


def counts(mentions):
    return mentions._repairs.to_json()


def test_a_mention_becomes_a_span_with_its_line_and_one_that_is_left_out_none(mentions):
    mentions.add(((27, 32),), "dis", "fever", 4)
    mentions.add(((0, 6),), "gene", None, 5)
    assert mentions.spans == {Span(27, 32, "Disease"): 4}
    assert not counts(mentions)


def test_pieces_are_covered_and_counted_unless_only_white_space_lies_between(mentions):
    mentions.add(((0, 6), (19, 25)), "dis", "Breast cancer", 1)
    mentions.add(((11, 18), (19, 25)), "dis", "ovarian cancer", 2)
    assert mentions.spans == {Span(0, 25, "Disease"): 1, Span(11, 25, "Disease"): 2}
    assert counts(mentions) == {"span in pieces widened to cover them": {"count": 1, "first": ["x.ann:1"]}}


def test_a_repeated_span_keeps_its_first_line(mentions):
    for line in (1, 2):
        mentions.add(((27, 32),), "dis", None, line)
    assert mentions.spans == {Span(27, 32, "Disease"): 1}
    assert counts(mentions) == {"repeated span dropped": {"count": 1, "first": ["x.ann:2"]}}


def test_a_document_that_was_there_before_is_dropped_with_its_spans(mentions):
    mentions.add(((27, 32),), "dis", None, 3)
    mentions.drop(None)
    assert counts(mentions) == {
        "document with a repeated id dropped": {"count": 1, "first": ["x.ann"]},
        "span of a repeated document dropped": {"count": 1, "first": ["x.ann:3"]},
    }


def test_an_unknown_label_is_refused(mentions):
    with pytest.raises(InputError, match=r"x\.ann:7: label 'drug' is not in the label map"):
        mentions.add(((0, 6),), "drug", None, 7)
