"""Sentences from the patterns and term lists of `medmt5/sample/xx.toml`, with the spans of what they mention.

A pattern is a sentence with slots: `{disease}` and `{drug}` become mentions; `{kind}`, `{site}`, `{class}` and
`{use}` tell of the first disease or drug of the sentence; `{any}` is one of `ANY`; the others are drawn from `[slots]`
or are numbers. Terms are split into train, dev and test by concept, in all languages alike, so that a term spelt the
same in two languages (`melanoma`) is never in train in one and in test in the other.
"""

from __future__ import annotations

import random
import re
import tomllib
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from medmt5.annotation.words import split_words

FOLDER = Path(__file__).parent
LANGUAGES = ("en", "es", "fr", "it")
SPLITS = ("train", "dev", "test")
LABELS = {"disease": "Disease", "drug": "Drug"}
ANY = (*LABELS, "symptom", "test", "procedure", "substance")
# Of ten concepts in a row six are for training, one for development, three for the test: each family of terms has its
# share.
SPLIT_OF_TEN = ("train", "test", "train", "dev", "train", "test", "train", "train", "test", "train")


@dataclass(frozen=True)
class Term:
    """A disease with its kind and site, or a drug with its class and use."""

    text: str
    slot: str
    kind: str
    about: str


@dataclass(frozen=True)
class Sentence:
    """A text and its mentions as (start, end, label): character offsets, end exclusive, in order."""

    text: str
    spans: tuple[tuple[int, int, str], ...] = ()

    def decomposed(self) -> Sentence:
        """Returns the sentence with accents as combining marks (NFD), spans moved accordingly.

        >>> Sentence("Fièvre, otite", ((8, 13, "Disease"),)).decomposed().spans
        ((9, 14, 'Disease'),)
        """

        def moved(offset: int) -> int:
            return len(unicodedata.normalize("NFD", self.text[:offset]))

        spans = tuple((moved(start), moved(end), label) for start, end, label in self.spans)
        return Sentence(unicodedata.normalize("NFD", self.text), spans)


def fold(text: str) -> tuple[str, ...]:
    """Returns the words of `text` without case and accents, for comparing terms.

    >>> fold("Síndrome de Guillain-Barré")
    ('sindrome', 'de', 'guillain', '-', 'barre')
    """
    decomposed = unicodedata.normalize("NFKD", text.casefold())
    plain = "".join(c for c in decomposed if not unicodedata.combining(c))
    return tuple(plain[start:end] for start, end in split_words(plain))


def mentions(words: Sequence[str], term: Sequence[str]) -> bool:
    """Returns whether the folded `term` stands in the folded `words` as whole words in a row.

    >>> mentions(fold("A viral Hepatitis."), fold("hepatitis")), mentions(fold("antihepatitis"), fold("hepatitis"))
    (True, False)
    """
    return any(tuple(words[i : i + len(term)]) == tuple(term) for i in range(len(words) - len(term) + 1))


@cache
def tables(lang: str) -> Mapping[str, Any]:
    """Returns `xx.toml` of the language."""
    return tomllib.loads((FOLDER / f"{lang}.toml").read_text(encoding="utf-8"))


def terms(lang: str, slot: str) -> list[Term]:
    """Returns all diseases or drugs of a language in the order of the concepts."""
    if slot == "disease":
        entries = ((kind, *entry.split("|")) for kind, group in tables(lang)["diseases"].items() for entry in group)
        return [Term(text, slot, kind, site) for kind, text, site in entries]
    groups = ((*group.split("|"), names) for group, names in tables(lang)["drugs"].items())
    return [Term(text, slot, kind, use) for kind, use, names in groups for text in names]


@cache
def concept_splits(slot: str) -> tuple[str, ...]:
    """Returns the split of each concept.

    A term that is part of a longer one ("glaucoma", "congenital glaucoma") goes to train: the longer could not be
    there otherwise.
    """
    columns = [[fold(term.text) for term in terms(lang, slot)] for lang in LANGUAGES]
    splits = []
    for i, concept in enumerate(zip(*columns, strict=True)):
        part_of_another = any(
            other != term and mentions(other, term)
            for term, column in zip(concept, columns, strict=True)
            for other in column
        )
        splits.append("train" if part_of_another else SPLIT_OF_TEN[i % len(SPLIT_OF_TEN)])
    return tuple(splits)


class Phrases:
    """Draws sentences of one language; `split` limits the terms, None allows all of them."""

    def __init__(self, lang: str, split: str | None, rng: random.Random):
        self.tables = tables(lang)
        self.terms = {
            slot: [t for t, s in zip(terms(lang, slot), concept_splits(slot), strict=True) if split in (None, s)]
            for slot in LABELS
        }
        self.rng = rng
        # The third of a joint replaces the first before a word that begins like the second: "de" + "asthme" is
        # "d'asthme".
        self._joints = [(first, re.compile(start, re.I), third) for first, start, third in self.tables["joints"]]
        self._sites = [term.about for term in terms(lang, "disease")] + self.tables["slots"]["site"]

    def choose(self, *sections: str) -> str:
        """Returns a random pattern of the section of the file named by `sections`, such as ("text", "notes")."""
        patterns: Any = self.tables
        for section in sections:
            patterns = patterns[section]
        return self.rng.choice(patterns)

    def sentence(self, pattern: str, subject: Term | None = None) -> Sentence:
        """Returns `pattern` with its slots filled; `subject` is its first disease or drug, by default a random one."""
        first = {slot: self.rng.choice(choices) for slot, choices in self.terms.items()}
        if subject:
            first[subject.slot] = subject
        used: set[str] = set()
        text, spans = "", []
        for i, piece in enumerate(re.split(r"\{(\w+)\}", pattern)):
            if i % 2 == 0:
                text += piece
                continue
            if piece == "any":
                piece = self.rng.choice(ANY)
            value = self._value(piece, first, used, "{disease}" in pattern)
            for ending, start, replacement in self._joints:
                if re.search(rf"\b{ending}$", text, re.I) and start.match(value):
                    capital = text[-len(ending)].isupper()
                    text = text[: -len(ending)] + (replacement.capitalize() if capital else replacement)
                    break
            if piece in LABELS:
                spans.append((len(text), len(text) + len(value), LABELS[piece]))
            text += value
        return Sentence(text[0].upper() + text[1:], tuple(spans))

    def _value(self, slot: str, first: Mapping[str, Term], used: set[str], about_disease: bool) -> str:
        match slot:
            case "kind":
                return first["disease"].kind
            case "class":
                return first["drug"].kind
            case "use":
                return first["drug"].about
            case "site" if about_disease:
                return first["disease"].about
            case "site":
                return self.rng.choice(self._sites)
            case "age":
                return str(self.rng.randint(18, 89))
            case "n":
                return str(self.rng.randint(2, 98))
            case "year":
                return str(self.rng.randint(1985, 2023))
            case "dose":
                return f"{self.rng.choice((5, 10, 20, 25, 40, 50, 100, 250, 500))} mg"
            case "duration":
                return f"{self.rng.randint(2, 30)} {self.rng.choice(self.tables['slots']['unit'])}"
        if slot in LABELS and first[slot].text not in used:
            value = first[slot].text
        else:
            choices = [term.text for term in self.terms[slot]] if slot in LABELS else self.tables["slots"][slot]
            value = self.rng.choice([choice for choice in choices if choice not in used])
        used.add(value)
        return value
