import random

import pytest
from datatrove.data import Document

from medmt5 import languages
from medmt5.corpus import filters
from medmt5.corpus.deduplication import Duplicates, fold
from medmt5.sample import phrases, raw

QUALITY = languages.Quality(frozenset({"le", "à"}), min_words=3, min_stop_words=0.2)
LANGUAGE = languages.Language("fr", "French", "spaces", sample="", quality=QUALITY)


def keeps(step, text):
    return step(LANGUAGE).filter(Document(text, "1"))


@pytest.mark.parametrize(
    ("step", "kept", "dropped", "reason"),
    [
        (filters.TooShort, "un deux trois", "un deux", "too_short"),
        (filters.NotLetters, "abc 12", "ab 12 34", "not_letters"),
        (filters.NotLetters, "e\u0301e\u0301 1", "e\u0301 123", "not_letters"),
        (filters.RepeatedLines, "a\nb\nc\na\n\n\n", "a\nb\na\n", "repeated_lines"),
        (filters.WrongLanguage, "Le foie est sain.", "The liver is healthy.", "wrong_language"),
        (filters.WrongLanguage, "a\u0300 jeun", "a jeun", "wrong_language"),
    ],
)
def test_a_filter_keeps_and_drops_by_the_language_s_threshold_and_names_the_reason(step, kept, dropped, reason):
    assert keeps(step, kept)[0]
    assert keeps(step, dropped) == (False, reason)


def test_a_language_without_stop_words_is_not_checked_for_language():
    language = languages.Language("xx", "X", "spaces", "")
    assert filters.WrongLanguage(language).filter(Document("anything", "1"))[0]


@pytest.mark.parametrize("code", phrases.LANGUAGES)
def test_text_of_a_language_passes_its_own_language_filter_and_no_other(code):
    texts = [raw.paragraph(phrases.Phrases(code, None, random.Random(i)), 6, "text", "notes") for i in range(200)]
    for other in languages.codes():
        step = filters.WrongLanguage(languages.load(other))
        kept = sum(step.filter(Document(text, "1"))[0] for text in texts) / len(texts)
        assert kept > 0.95 if other == code else kept < 0.05, (other, kept)


def test_duplicates_differ_in_case_spaces_punctuation_and_form_and_the_first_is_kept():
    step = Duplicates(set())
    texts = ["Fièvre, toux.", "FIÈVRE   toux", "Fie\u0300vre\n toux!", "Fièvre tous", "Fievre, toux."]
    assert [step.filter(Document(text, "1"))[0] for text in texts] == [True, False, False, True, True]


def test_signs_that_change_the_meaning_are_no_punctuation():
    assert fold("p < 5") != fold("p > 5")


def test_documents_seen_in_one_source_are_duplicates_in_the_next():
    seen: set[bytes] = set()
    assert Duplicates(seen).filter(Document("a", "1"))[0]
    assert Duplicates(seen).filter(Document("A.", "2")) == (False, "duplicate")
