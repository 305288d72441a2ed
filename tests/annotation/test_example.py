import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medmt5.annotation.example import LabelledExample
from medmt5.annotation.repairs import Repairs
from medmt5.annotation.spans import Span
from medmt5.errors import InputError

WORDS = st.lists(st.sampled_from(["asthma", "niño", "%", "<Disease>", "e\u0301"]), max_size=8)
TAGS = st.sampled_from(["O", "B-Disease", "I-Disease", "I-Drug"])


@given(WORDS, st.data())
def test_spans_in_characters_hold_the_words_of_the_spans_in_words(words, data):
    tags = data.draw(st.lists(TAGS, min_size=len(words), max_size=len(words)))
    example = LabelledExample.from_words("1", "es", words, tags)
    assert example.text.split(" ") == (words or [""])
    found = [(example.text[start:end], label) for start, end, label in example.spans]
    assert found == [(" ".join(words[s:e]), label) for s, e, label in example.word_spans]


@given(WORDS, st.data())
def test_json_gives_the_example_back(words, data):
    tags = data.draw(st.lists(TAGS, min_size=len(words), max_size=len(words)))
    example = LabelledExample.from_words("1", "es", words, tags)
    assert LabelledExample.from_json(json.loads(json.dumps(example.to_json()))) == example


def test_tags_are_iob2_whatever_the_scheme_was():
    example = LabelledExample.from_words("1", "en", ["a", "b", "c"], ["I-Drug", "L-Drug", "U-Drug"])
    assert example.tags == ("B-Drug", "I-Drug", "B-Drug")


def test_spans_of_a_text_are_made_whole_words_and_counted_under_the_id():
    repairs = Repairs()
    example = LabelledExample.from_text("doc-3", "en", "No severe\u00a0asthma.", [Span(5, 16, "Disease")], repairs)
    assert (example.words, example.tags) == (("No", "severe", "asthma", "."), ("O", "B-Disease", "I-Disease", "O"))
    assert example.spans == (Span(3, 16, "Disease"),)
    assert repairs.to_json() == {"span widened to whole words": {"count": 1, "first": ["doc-3"]}}


def test_words_and_tags_of_different_number_are_refused():
    with pytest.raises(InputError, match="example 7: every word needs one tag; there are 1 and 2"):
        LabelledExample("7", "en", ("a",), ("O", "O"), "a", (), "7")


def test_a_missing_field_is_named():
    with pytest.raises(InputError, match="must have the field 'lang'; this one has id"):
        LabelledExample.from_json({"id": "7"})
