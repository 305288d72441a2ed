"""The authors' number is seqeval's on tags parsed from text, malformed text and tags included."""

import doctest
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from seqeval.metrics import f1_score

from medmt5.annotation.spans import spans_to_tags, tags_to_spans
from medmt5.annotation.tagged_text import render
from medmt5.evaluation import parsed_text
from medmt5.evaluation.parsed_text import micro_macro_f1, parse_tags, score_text
from medmt5.evaluation.span_scores import Scores

LABELS = ("Disease", "Drug", "Dis")
WORDS = ("no", "asthma", "7,2", "<", ">", "a<b", "</", "<Drugs>", "<drug>", "ni\u00f1o", "Disease")
TAGS = ("O", "O", "O", *(f"{prefix}-{label}" for prefix in "BI" for label in LABELS))
TAG_TEXTS = [f"<{slash}{label}>" for slash in ("", "/") for label in LABELS]


def read_characters(text):
    """Tags of a tagged text, by a reader of one character at a time: the oracle of `parse_tags`."""
    tags, word, state = [], "", ("O", "")

    def end_word():
        nonlocal word, state
        if word:
            tags.append("O" if state[0] == "O" else "-".join(state))
            state = ("I", state[1]) if state[0] == "B" else state
        word = ""

    position = 0
    while position < len(text):
        if text[position] == "<" and (tag := next((t for t in TAG_TEXTS if text.startswith(t, position)), None)):
            end_word()
            state = ("O", "") if tag[1] == "/" else ("B", tag[1:-1])
            position += len(tag)
            continue
        if text[position].isspace():
            end_word()
        else:
            word += text[position]
        position += 1
    end_word()
    return tags


def random_text(rng, words):
    """The words with tags strewn between and into them, closed or not, glued or spaced; words lost, added, repeated."""
    words = list(words)
    for _ in range(rng.choice((0, 0, 0, 1, 3))):
        at = rng.randrange(len(words) + 1)
        if rng.random() < 0.5:
            words[at:at] = [rng.choice(WORDS)]
        else:
            del words[at : at + 1]
    parts = []
    for word in words:
        while rng.random() < 0.35:
            parts += [rng.choice(("", " ")), rng.choice(TAG_TEXTS), rng.choice(("", " ", "\n"))]
        cut = rng.randrange(len(word) + 1) if rng.random() < 0.05 else len(word)
        parts += [
            word[:cut],
            rng.choice(TAG_TEXTS) if cut < len(word) else "",
            word[cut:],
            rng.choice((" ", " ", "\t ")),
        ]
    return "".join(parts)


def test_equal_to_seqeval_on_10_000_random_sequences():
    rng = random.Random(0)
    sequences = several_labels = 0
    while sequences < 10_000:
        gold_tags, predicted_tags, total = [], [], Scores()
        for _ in range(rng.randint(1, 20)):
            words = rng.choices(WORDS, k=rng.randint(1, 12))
            gold = rng.choices(TAGS, k=len(words))  # orphan I- and I- of another label included
            if rng.random() < 0.4:
                text = render(words, tags_to_spans(gold))
            else:
                text = random_text(rng, words)
            total += score_text(words, tags_to_spans(gold), text, LABELS)
            parsed = read_characters(text)[: len(words)]
            gold_tags.append(gold)
            predicted_tags.append(parsed + ["O"] * (len(words) - len(parsed)))
        sequences += len(gold_tags)
        ours = micro_macro_f1(total)
        if total.labels:
            macro = f1_score(gold_tags, predicted_tags, average="macro", zero_division=1)
            assert ours["macro_f1"] == pytest.approx(macro, abs=1e-12)
        assert ours["micro_f1"] == pytest.approx(f1_score(gold_tags, predicted_tags, zero_division=1), abs=1e-12)
        several_labels += len(total.labels) > 1 and 0 < ours["micro_f1"] < 1
    assert several_labels > 500  # it compares numbers, not zeros


@given(st.text(st.sampled_from("ab< >/\n\u00a0\u2028"), max_size=30), st.randoms())
def test_text_is_parsed_as_by_reading_characters(text, rng):
    for _ in range(4):
        at = rng.randrange(len(text) + 1)
        text = text[:at] + rng.choice(TAG_TEXTS) + text[at:]
    assert parse_tags(text, LABELS) == read_characters(text)


@given(st.lists(st.sampled_from(TAGS), min_size=1, max_size=12))
def test_tags_that_are_rendered_come_back(tags):
    spans = tags_to_spans(tags)
    assert parse_tags(render(["word"] * len(tags), spans), LABELS) == spans_to_tags(spans, len(tags))


@pytest.mark.parametrize(
    ("text", "tags"),
    [
        ("<Drug>a b", ["B-Drug", "I-Drug"]),  # never closed
        ("a</Drug>b", ["O", "O"]),  # never opened
        ("<Drug>a</Disease>b", ["B-Drug", "O"]),  # closed by another label's tag
        ("<Drug>a<Drug>b</Drug>c", ["B-Drug", "B-Drug", "O"]),
        ("<Drug></Drug>a", ["O"]),  # empty
        ("<Chemical>a", ["O"]),  # a label of no concern is a word, here glued to one
        ("<Dis<Drug>ease>a", ["O", "B-Drug"]),  # what is left after a tag is taken out is no tag
        ("", []),
    ],
)
def test_malformed_text_is_read_as_the_authors_do(text, tags):
    assert parse_tags(text, ("Disease", "Drug")) == tags


def test_it_differs_from_strict_spans_where_nothing_is_there_and_where_words_look_like_tags():
    assert micro_macro_f1(score_text(["a"], [], "a", LABELS)) == {"micro_f1": 1.0, "macro_f1": None}
    with pytest.warns(RuntimeWarning):
        assert np.isnan(f1_score([["O"]], [["O"]], average="macro", zero_division=1))
    # The word <Drug> is lost to both sides, and opens a span.
    scores = score_text(["<Drug>", "a"], [], "<Drug> a", LABELS)
    assert (scores.total.gold, scores.total.predicted, scores.total.correct) == (1, 1, 1)


def test_examples_in_docstrings():
    assert doctest.testmod(parsed_text).failed == 0
