import pytest
from hypothesis import given
from hypothesis import strategies as st

from medmt5 import languages
from medmt5.annotation.sentences import split_sentences


def sentences_of(text, lang="en"):
    return [text[start:end] for start, end in split_sentences(text, lang)]


@given(
    st.text(st.characters() | st.sampled_from("aB1. \n\r\t!?…\"')(\u00a0\u2028")),
    st.sampled_from([*languages.codes(), "unknown"]),
)
def test_only_white_space_is_outside_sentences(text, lang):
    spans = split_sentences(text, lang)
    ends = [0, *(end for _, end in spans)]
    starts = [*(start for start, _ in spans), len(text)]
    assert not "".join(text[end:start] for end, start in zip(ends, starts, strict=True)).strip()
    assert all(start < end and text[start:end].strip() == text[start:end] for start, end in spans)
    assert spans == sorted(spans)


@pytest.mark.parametrize(
    ("lang", "sentences"),
    [
        ("en", ["She was seen by Dr. Hill on Jan. 3.", "No fever (38.5 °C).", "Is it E. coli?", "Yes, cf. Fig. 2."]),
        (
            "es",
            ["Lo vio la Dra. Ruiz a las 8.", "¿Tiene fiebre?", "Sí, aprox. 38,5 °C.", "Toma 10 mg.", "Dijo que no."],
        ),
        (
            "fr",
            [
                "Vu par le Pr. Aubry, cf. p. 12.",
                "A-t-il de la fièvre ?",
                "Oui, p.ex. 38,5 °C.",
                "«Non.»",
                "État stable.",
            ],
        ),
        (
            "it",
            [
                "Visto dal Dott. Neri e dalla Sig.ra Poli.",
                "Ha febbre?",
                "Sì, es. 38,5 °C.",
                "È stabile.",
                "(Vedi tab. 3.)",
            ],
        ),
    ],
)
def test_sentences_of_each_language_are_found(lang, sentences):
    assert sentences_of(" ".join(sentences), lang) == sentences


def test_a_line_end_ends_a_sentence():
    assert sentences_of("Findings\r\nno fever\n\n and no cough") == ["Findings", "no fever", "and no cough"]


def test_numbers_do_not_end_sentences_where_they_number_lines_or_are_decimals():
    text = "2. Methods were as in 19p13. 3 with p =. 03 and 7. 8 % of all."
    assert sentences_of(text) == [text]


def test_an_abbreviation_of_one_language_is_a_word_in_another():
    assert len(sentences_of("He said no. 12 of them.", "en")) == 1
    assert len(sentences_of("Dijo que no. 12 de ellos.", "es")) == 2


def test_an_unknown_language_uses_what_holds_for_all():
    assert sentences_of("O Dr. Silva chegou. Tudo bem.", "pt") == ["O Dr. Silva chegou.", "Tudo bem."]


@pytest.mark.parametrize("text", ["A. " * 30_000, "." * 30_000, "a" * 30_000, " " * 30_000 + ".", "x. 1 " * 20_000])
def test_long_lines_take_linear_time(text):
    split_sentences(text, "en")


@pytest.mark.parametrize("lang", languages.codes())
def test_no_sentence_ends_after_an_abbreviation_of_a_language(lang):
    language = languages.load(lang)
    assert sentences_of(f"{language.sample} {language.sample}", lang) == [language.sample] * 2
    for word in language.abbreviations:
        assert word == word.casefold()
        assert sentences_of(f"Xxx {word}. Yyy.", lang) == [f"Xxx {word}. Yyy."]
