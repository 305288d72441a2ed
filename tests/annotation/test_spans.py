from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from seqeval.metrics.sequence_labeling import get_entities

from medmt5.annotation.spans import Span, spans_to_tags, tags_to_spans, to_characters, to_words
from medmt5.annotation.words import split_words
from medmt5.errors import InputError

LABELS = ["Disease", "Drug", "NO-NORM"]
ANY_TAGS = st.lists(st.just("O") | st.builds("{}-{}".format, st.sampled_from("BIES"), st.sampled_from(LABELS)))


@st.composite
def word_spans(draw):
    """Draws (spans that do not overlap, number of words)."""
    cuts = sorted(draw(st.sets(st.integers(0, 30), max_size=12)))
    pairs = [pair for pair in pairwise(cuts) if draw(st.booleans())]
    spans = [Span(start, end, draw(st.sampled_from(LABELS))) for start, end in pairs]
    return spans, (cuts[-1] if cuts else 0) + draw(st.integers(0, 3))


@given(ANY_TAGS)
def test_spans_of_any_tags_are_those_of_seqeval_by_default(tags):
    assert tags_to_spans(tags) == [Span(start, last + 1, label) for label, start, last in get_entities(tags)]


@given(word_spans())
def test_spans_survive_the_way_through_tags(drawn):
    spans, num_words = drawn
    tags = spans_to_tags(spans, num_words)
    assert len(tags) == num_words
    assert tags_to_spans(tags) == spans


@given(word_spans())
def test_bilou_and_iobes_are_read_as_iob2(drawn):
    spans, num_words = drawn
    for last, single in ("LU", "ES"):
        tags = spans_to_tags(spans, num_words)
        for start, end, label in spans:
            tags[end - 1] = f"{single if end - start == 1 else last}-{label}"
        assert tags_to_spans(tags) == spans


@pytest.mark.parametrize("tag", ["", "B", "B-", "X-Disease", "o", "Disease", "B-two words"])
def test_what_is_not_a_tag_is_refused_by_value(tag):
    with pytest.raises(InputError, match=f"not {tag!r} \\(word 1\\)"):
        tags_to_spans(["O", tag])


@pytest.mark.parametrize("span", [Span(2, 2, "Drug"), Span(2, 4, "Drug"), Span(-1, 1, "Drug"), Span(2, 1, "Drug")])
def test_a_span_outside_the_words_is_refused(span):
    with pytest.raises(InputError, match=rf"one of the 3 words; Drug is from {span.start} to {span.end}"):
        spans_to_tags([span], 3)


def test_overlapping_spans_are_refused():
    with pytest.raises(InputError, match="Drug from word 1 to 3 meets another"):
        spans_to_tags([Span(0, 2, "Disease"), Span(1, 3, "Drug")], 3)


@given(word_spans())
def test_spans_survive_the_way_through_characters(drawn):
    spans, num_words = drawn
    offsets = split_words(" ".join(["word"] * num_words))
    assert to_words(to_characters(spans, offsets), offsets) == (spans, [])


CHARACTER_SPANS = st.lists(st.builds(Span, st.integers(0, 30), st.integers(0, 30), st.sampled_from(LABELS)))


@given(st.text(st.sampled_from("ab .-"), max_size=30), CHARACTER_SPANS)
def test_every_character_span_is_kept_or_reported_as_dropped(text, spans):
    offsets = split_words(text)
    kept, problems = to_words(spans, offsets)
    spans_to_tags(kept, len(offsets))  # raises if any two overlap
    assert len(kept) + sum(problem.kind.endswith("dropped") for problem in problems) == len(spans)


@given(st.text(st.sampled_from("ab .-"), max_size=30), CHARACTER_SPANS)
def test_the_order_of_character_spans_does_not_matter(text, spans):
    offsets = split_words(text)
    kept, problems = to_words(spans, offsets)
    assert (kept, sorted(problems)) == (lambda k, p: (k, sorted(p)))(*to_words(spans[::-1], offsets))


def test_a_span_that_cuts_words_is_widened_and_reported():
    kept, problems = to_words([Span(2, 7, "Drug")], split_words("severe asthma now"))
    assert kept == [Span(0, 1, "Drug")]
    assert [problem.kind for problem in problems] == ["span widened to whole words"]


def test_white_space_at_the_edges_of_a_span_is_no_problem():
    assert to_words([Span(6, 14, "Drug")], split_words("severe asthma now")) == ([Span(1, 2, "Drug")], [])


def test_of_overlapping_spans_the_longer_is_kept_and_the_other_reported():
    short, long = Span(0, 8, "Disease"), Span(2, 19, "Disease")
    kept, problems = to_words([short, long], split_words("a severe asthma now"))
    assert kept == [Span(1, 4, "Disease")]
    assert problems == [("overlapping span dropped", short)]


@pytest.mark.parametrize("span", [Span(6, 7, "Drug"), Span(8, 8, "Drug"), Span(40, 50, "Drug")])
def test_a_span_without_a_word_is_dropped_and_reported(span):
    assert to_words([span], split_words("severe asthma now")) == ([], [("span without a word dropped", span)])
