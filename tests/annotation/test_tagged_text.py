import pytest
from hypothesis import given
from hypothesis import strategies as st

from medmt5.annotation.labels import LABELS
from medmt5.annotation.spans import Span
from medmt5.annotation.tagged_text import encode_input, encode_target, parse_target, render
from medmt5.errors import InputError


class ToyTokenizer:
    """A piece a character, so that words of one to four pieces share pieces; every label two ids above them."""

    eos_id = 1

    def encode_words(self, words):
        return [[2 + ord(character) % 5 for character in word] for word in words]

    def tag_pieces(self, label, closing):
        return [10 + 2 * LABELS.index(label) + closing]


TOKENIZER = ToyTokenizer()
EOS, (OPEN,), (CLOSE,) = 1, TOKENIZER.tag_pieces("Disease", False), TOKENIZER.tag_pieces("Disease", True)
WORDS = st.lists(st.text(st.sampled_from("abc"), min_size=1, max_size=4), max_size=8)


@st.composite
def labelled_words(draw):
    words = draw(WORDS)
    spans, start = [], 0
    while start < len(words):
        end = start + draw(st.integers(1, 3))
        if end <= len(words) and draw(st.booleans()):
            spans.append(Span(start, end, draw(st.sampled_from(LABELS))))
        start = end
    return words, spans


@given(labelled_words())
def test_spans_come_back_from_the_target(drawn):
    words, spans = drawn
    assert parse_target(encode_target(words, spans, TOKENIZER), TOKENIZER.encode_words(words), TOKENIZER) == spans


@given(labelled_words())
def test_a_target_without_its_tags_is_an_input_without_its_prompt(drawn):
    words, spans = drawn
    target = encode_target(words, spans, TOKENIZER)
    assert [token for token in target if token < 10] == encode_input(words, [], TOKENIZER)


@given(labelled_words(), st.lists(st.sampled_from([EOS, OPEN, CLOSE, 2, 3, 4]), max_size=30))
def test_only_the_target_of_some_spans_is_accepted(drawn, ids):
    words, _ = drawn
    try:
        spans = parse_target(ids, TOKENIZER.encode_words(words), TOKENIZER)
    except ValueError:
        return
    assert encode_target(words, spans, TOKENIZER) == ids


@given(labelled_words(), st.data())
def test_a_target_with_one_token_removed_doubled_or_changed_is_another_target_or_refused(drawn, data):
    words, spans = drawn
    target = encode_target(words, spans, TOKENIZER)
    place = data.draw(st.integers(0, len(target) - 1))
    new = data.draw(st.sampled_from([[], [target[place]] * 2, [EOS], [OPEN], [CLOSE], [2]]))
    changed = target[:place] + new + target[place + 1 :]
    try:
        parsed = parse_target(changed, TOKENIZER.encode_words(words), TOKENIZER)
    except ValueError:
        return
    assert encode_target(words, parsed, TOKENIZER) == changed


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([2, 3, OPEN, 4], "position 4: <Disease> is never closed"),
        ([2, 3, 4], "position 3: after the last word must come EOS"),
        ([2, 3, 4, EOS, 0], "position 3: after the last word must come EOS, and nothing after it"),
        ([2, OPEN, 3, CLOSE, 4, EOS], "position 1: word 0 is not copied whole"),
        ([OPEN, CLOSE, 2, 3, 4, EOS], "position 1: <Disease> holds no word"),
        ([OPEN, 2, 3, OPEN, 4, CLOSE, EOS], "position 3: <Disease> inside <Disease>"),
        ([OPEN, 2, 3, CLOSE - 2, 4, EOS], "position 3: </DiseaseNCBI> closes <Disease>"),
        ([2, 3, CLOSE, 4, EOS], "position 2: </Disease> closes nothing"),
        ([2, 3, EOS], "position 2: word 1 is not copied whole"),
        ([2, 3], "position 2: ends after 1 of 2 words"),
        ([2, 3, OPEN, 4, EOS], "position 4: <Disease> is never closed"),
        ([2, 3, 4, OPEN, EOS], "position 4: <Disease> is never closed"),
        ([], "position 0: ends after 0 of 2 words"),
    ],
)
def test_what_is_no_target_is_refused_with_the_position(ids, message):
    with pytest.raises(ValueError, match=message):
        parse_target(ids, [[2, 3], [4]], TOKENIZER)


def test_the_prompt_holds_each_permitted_label_once_in_the_order_of_labels():
    ids = encode_input(["a"], ["Drug", "Dis", "Drug", "Disease"], TOKENIZER)
    prompt = [TOKENIZER.tag_pieces(label, False)[0] for label in ("Dis", "Disease", "Drug")]
    assert ids == [*prompt, 2 + ord("a") % 5, EOS]


def test_an_unknown_label_in_the_prompt_is_refused():
    with pytest.raises(InputError, match="unknown label 'disease'"):
        encode_input(["a"], ["disease"], TOKENIZER)


def test_overlapping_spans_are_refused():
    with pytest.raises(InputError, match="must not overlap"):
        encode_target(["a", "b"], [Span(0, 2, "Dis"), Span(1, 2, "Drug")], TOKENIZER)


def test_neighbouring_spans_close_before_the_next_opens():
    spans = [Span(1, 2, "Disease"), Span(0, 1, "Drug")]
    assert render(["a", "b", "c"], spans) == "<Drug>a</Drug><Disease>b</Disease>c"
    assert render([], []) == ""


def test_words_that_look_like_tags_survive_a_real_vocabulary(tokenizer):
    words = ["<Disease>", "</s>", "<extra_id_0>", "\u200b", "niño", "<pad>"]
    spans = [Span(0, 2, "Disease"), Span(3, 6, "Drug")]
    target = encode_target(words, spans, tokenizer)
    assert parse_target(target, tokenizer.encode_words(words), tokenizer) == spans
    assert target.count(tokenizer.eos_id) == 1
