"""Finds what train and dev share with a test: sentences that are there word for word or nearly so, and documents.

Texts are compared as their words in small letters, without punctuation. Two are equal if these are; they are nearly so
if each has at least `MIN_WORDS` of them and their sets of runs of `RUN_WORDS` words have a Jaccard similarity of at
least `MIN_JACCARD`: a sentence of 25 words may differ in one word anywhere, or in a few that stand together. All pairs
are compared exactly, found through an index of the runs of the tests: there is no sampling that could miss one.
"""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from medmt5.annotation.example import LabelledExample
from medmt5.annotation.words import split_words

RUN_WORDS = 5
MIN_WORDS = 10
MIN_JACCARD = 0.5
EXACT, NEAR, DOCUMENT = "exact", "near", "document"

Words = tuple[str, ...]


def find_leaks(examples: Sequence[LabelledExample], tests: Sequence[LabelledExample]) -> dict[str, str]:
    """Returns id -> kind of the `examples` that a test has too: EXACT, NEAR, or, where only the whole document that it
    stands in is nearly one of the tests', DOCUMENT.
    """
    words = {example.id: normalise(example.text) for example in examples}
    test_words = [normalise(example.text) for example in tests]
    finder = Finder(test_words)
    leaks = {id: kind for id, text in words.items() if (kind := finder.find(text))}
    documents = Finder(_documents(tests, test_words).values())
    leaked = {name for name, text in _documents(examples, words.values()).items() if documents.find(text)}
    return leaks | {e.id: DOCUMENT for e in examples if e.document in leaked and e.id not in leaks}


def normalise(text: str) -> Words:
    """Returns what of a text is compared.

    >>> normalise("No fever (37,2 °C).")
    ('no', 'fever', '37', '2', 'c')
    """
    text = unicodedata.normalize("NFKC", text).casefold()
    return tuple(text[start:end] for start, end in split_words(text) if text[start:end].isalnum())


class Finder:
    """Texts to be found again."""

    def __init__(self, texts: Iterable[Words]):
        self._exact = {text for text in texts if text}
        self._sizes: list[int] = []
        self._with_run: defaultdict[Words, list[int]] = defaultdict(list)
        for text in self._exact:
            if len(text) >= MIN_WORDS:
                runs = _runs(text)
                for run in runs:
                    self._with_run[run].append(len(self._sizes))
                self._sizes.append(len(runs))

    def find(self, text: Words) -> str | None:
        """Returns EXACT, NEAR or None."""
        if text in self._exact:
            return EXACT
        if len(text) < MIN_WORDS:
            return None
        runs = _runs(text)
        shared = Counter(number for run in runs for number in self._with_run.get(run, ()))
        near = any(n >= MIN_JACCARD * (len(runs) + self._sizes[number] - n) for number, n in shared.items())
        return NEAR if near else None


def _runs(text: Words) -> set[Words]:
    return {text[i : i + RUN_WORDS] for i in range(len(text) - RUN_WORDS + 1)}


def _documents(examples: Sequence[LabelledExample], words: Iterable[Words]) -> dict[str, Words]:
    """Returns document -> its words, of the documents that have an id of their own."""
    documents: defaultdict[str, list[str]] = defaultdict(list)
    for example, text in zip(examples, words, strict=True):
        if example.document != example.id:
            documents[example.document] += text
    return {name: tuple(text) for name, text in documents.items()}
