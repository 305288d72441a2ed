"""Cuts an annotated document into labelled sentences without cutting a mention, for the readers of document formats."""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath

from medmt5.annotation.example import LabelledExample
from medmt5.annotation.repairs import Repairs
from medmt5.annotation.sentences import split_sentences
from medmt5.annotation.spans import Span, to_characters, to_words
from medmt5.annotation.words import split_words


def split_document(
    id: str,
    lang: str,
    text: str,
    spans: Mapping[Span, int],
    repairs: Repairs,
    file: str | os.PathLike,
    sentences: Sequence[tuple[int, int]] | None = None,
) -> Iterator[LabelledExample]:
    """Yields the sentences of a document as examples `<id>-1`, `<id>-2`, …; those that a span joins stay one, counted.

    Args:
      spans: character spans in `text`, each with its line in `file`.
      sentences: in characters, sorted and apart, with only white space between them; found by rules if None.
    """
    offsets = split_words(text)
    word_spans, problems = to_words(spans, offsets)
    for problem in problems:
        repairs.add(problem.kind, file, spans[problem.span])
    whole = to_characters(word_spans, offsets)
    starts = [span.start for span in whole]

    joined: list[tuple[int, int]] = []
    for start, end in split_sentences(text, lang) if sentences is None else sentences:
        # Spans lie apart: only the last one that begins before this sentence can reach into it.
        last = bisect_left(starts, start) - 1
        if joined and last >= 0 and whole[last].end > start:
            repairs.add("sentences joined by a span", file)
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))

    for number, (start, end) in enumerate(joined, start=1):
        inside = [
            Span(first - start, last - start, label)
            for first, last, label in whole[bisect_left(starts, start) : bisect_left(starts, end)]
        ]
        example = LabelledExample.from_text(f"{id}-{number}", lang, text[start:end], inside, repairs, id)
        if example.words:  # a line of invisible characters has none
            yield example


def document_id(name: str) -> str:
    """Returns the id of the document in a file of a folder: its path there without the suffix.

    >>> document_id("train/note-1.txt")
    'train/note-1'
    """
    return PurePath(name).with_suffix("").as_posix()
