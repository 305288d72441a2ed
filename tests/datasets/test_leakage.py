"""The finder finds exactly what comparing all pairs finds, and what it calls alike is so in the sense it states."""

import doctest
import random

from hypothesis import given, settings
from hypothesis import strategies as st

from medmt5.annotation.example import LabelledExample
from medmt5.annotation.repairs import Repairs
from medmt5.datasets import leakage
from medmt5.datasets.leakage import MIN_EXACT_WORDS, MIN_JACCARD, MIN_WORDS, RUN_WORDS, Finder, find_leaks, normalise

WORDS = st.lists(st.sampled_from("abc"), min_size=0, max_size=24).map(tuple)


def runs(text):
    return {text[i : i + RUN_WORDS] for i in range(len(text) - RUN_WORDS + 1)}


def compare_all(text, others):
    """The definition, pair by pair."""
    if len(text) >= MIN_EXACT_WORDS and text in others:
        return "exact"
    long = [other for other in others if len(other) >= MIN_WORDS] if len(text) >= MIN_WORDS else []
    jaccards = [len(runs(text) & runs(o)) / len(runs(text) | runs(o)) for o in long]
    return "near" if any(jaccard >= MIN_JACCARD for jaccard in jaccards) else None


@settings(max_examples=300, deadline=None)
@given(text=WORDS, others=st.lists(WORDS, max_size=8))
def test_the_finder_finds_what_comparing_all_pairs_finds(text, others):
    assert Finder(others).find(text) == compare_all(text, others)


def test_the_same_on_a_corpus_with_planted_copies():
    draw = random.Random(0)
    vocabulary = [f"w{i}" for i in range(200)]
    tests = [tuple(draw.choices(vocabulary, k=draw.randint(1, 40))) for _ in range(300)]
    texts = [tuple(draw.choices(vocabulary, k=draw.randint(1, 40))) for _ in range(200)]
    for test in draw.sample(tests, 100):
        changed = list(test)
        for _ in range(draw.randint(0, 3)):
            changed[draw.randrange(len(changed))] = draw.choice(vocabulary)
        texts.append(tuple(changed))
    finder = Finder(tests)
    found = [finder.find(text) for text in texts]
    assert found == [compare_all(text, tests) for text in texts]
    assert {"exact", "near", None} <= set(found)


def example(id, text, document=None):
    return LabelledExample.from_text(id, "en", text, [], Repairs(), document)


LONG = "In this trial of forty patients no difference was seen between the two arms after a year of treatment"


def test_case_punctuation_width_and_one_word_of_many_do_not_matter_short_sentences_must_be_equal_headings_are_none():
    tests = [example("t1", LONG + "."), example("t2", "No fever since today."), example("t3", "Results:")]
    leaks = find_leaks(
        [
            example("upper", LONG.upper() + "!"),
            example("wide", LONG.replace("forty", "\uff46orty")),
            example("one word", LONG.replace("year", "month")),
            example("other", LONG.replace("forty", "ten").replace("no", "a").replace("two", "six")),
            example("short", "no fever, since today"),
            example("short other", "No fever since May."),
            example("heading", "Results"),
        ],
        tests,
    )
    assert leaks == {"upper": "exact", "wide": "exact", "one word": "near", "short": "exact"}


def test_a_document_that_is_nearly_a_tests_is_found_whole_sentences_alone_are_no_document():
    sentences = [f"Sentence {i} of a note with its own words {i} {i + 1}." for i in range(6)]
    tests = [example(f"t-{i}", text, "t") for i, text in enumerate(sentences)]
    copied = [example(f"d-{i}", text, "d") for i, text in enumerate([*sentences, "An end of its own."])]
    single = [example("s", sentences[0]), example("u-0", "Nothing of it.", "u")]
    leaks = find_leaks([*copied, *single], tests)
    assert leaks == {**{f"d-{i}": "exact" for i in range(6)}, "d-6": "document", "s": "exact"}


def test_examples_in_docstrings():
    assert doctest.testmod(leakage).failed == 0
    assert normalise("…") == ()
