from itertools import pairwise
from unicodedata import category

from hypothesis import given
from hypothesis import strategies as st

from medmt5.annotation.words import split_words

# Any text, with the characters that matter drawn often: spaces of all kinds, combining marks, symbols, astral letters.
TEXT = st.text(st.characters() | st.sampled_from("a1é\u0301ñ \u00a0\u200b\u2009\u00ad\u200d\u2028\t\n\r%<>'’-.😀𝒜⁄"))


def words_of(text):
    return [text[start:end] for start, end in split_words(text)]


@given(TEXT)
def test_nothing_visible_is_outside_a_word_and_nothing_invisible_inside(text):
    covered = [i for start, end in split_words(text) for i in range(start, end)]
    visible = [i for i, c in enumerate(text) if category(c)[0] != "Z" and category(c) not in ("Cc", "Cf")]
    assert covered == visible


@given(TEXT)
def test_words_are_not_empty_and_are_letter_runs_or_single_symbols(text):
    for word in words_of(text):
        assert word
        assert len(word) == 1 or all(category(c)[0] in "LNM" for c in word)


@given(TEXT)
def test_words_are_as_long_as_they_can_be(text):
    spans = split_words(text)
    for (_, end), (start, _) in pairwise(spans):
        assert end < start or not (category(text[end - 1])[0] in "LNM" and category(text[start])[0] in "LNM")


@given(st.text(st.sampled_from("ab1 .,\u00a0é"), max_size=20))
def test_splitting_the_joined_words_again_changes_nothing(text):
    assert words_of(" ".join(words_of(text))) == words_of(text)


def test_composed_and_decomposed_accents_are_one_word_each():
    assert words_of("ni\u00f1o nin\u0303o") == ["ni\u00f1o", "nin\u0303o"]


def test_no_break_zero_width_and_line_separators_stand_between_words():
    assert words_of("a\u00a0b\u200bc\u2028d\ufeffe\u202ff\x00g") == list("abcdefg")


def test_what_looks_like_a_tag_is_taken_apart_as_text():
    assert words_of("l'<Disease>") == ["l", "'", "<", "Disease", ">"]
