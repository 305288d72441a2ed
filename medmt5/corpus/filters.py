"""Filters of documents as datatrove steps; each gives (keep, reason), and every reason is counted in the manifest.

The thresholds are a language's own (`Language.quality`). The filters are plain and fast; none of them is a model.
"""

from __future__ import annotations

import unicodedata

import regex
from datatrove.data import Document
from datatrove.pipeline.filters.base_filter import BaseFilter

from medmt5.languages import Language

WORDS = regex.compile(r"[\p{L}\p{M}]+")
NOT_LETTERS = regex.compile(r"[^\p{L}\p{M}]+")


class QualityFilter(BaseFilter):
    """A filter by the quality thresholds of a language."""

    def __init__(self, language: Language):
        super().__init__()
        self.name = type(self).__name__
        self.language, self.quality = language, language.quality


class TooShort(QualityFilter):
    def filter(self, doc: Document) -> tuple[bool, str]:
        return self.language.count_words(doc.text) >= self.quality.min_words, "too_short"


class NotLetters(QualityFilter):
    """Drops tables of figures, formulas, base pairs of scanning noise: text in which letters are too few."""

    def filter(self, doc: Document) -> tuple[bool, str]:
        characters = sum(map(len, doc.text.split()))
        return len(NOT_LETTERS.sub("", doc.text)) >= self.quality.min_letters * characters, "not_letters"


class RepeatedLines(QualityFilter):
    def filter(self, doc: Document) -> tuple[bool, str]:
        lines = [line for line in map(str.strip, doc.text.split("\n")) if line]
        return len(lines) - len(set(lines)) <= self.quality.max_repeated_lines * len(lines), "repeated_lines"


class WrongLanguage(QualityFilter):
    """Drops text with too few of the language's stop words."""

    def filter(self, doc: Document) -> tuple[bool, str]:
        if not self.quality.stop_words:
            return True, ""
        words = WORDS.findall(unicodedata.normalize("NFC", doc.text).lower())
        found = sum(word in self.quality.stop_words for word in words)
        return found >= self.quality.min_stop_words * len(words), "wrong_language"
