"""Cuts an annotated document into labelled sentences without cutting a mention, for the readers of document formats."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping

from medmt5.annotation.example import LabelledExample
from medmt5.annotation.repairs import Repairs
from medmt5.annotation.sentences import split_sentences
from medmt5.annotation.spans import Span, to_characters, to_words
from medmt5.annotation.words import split_words


def split_document(
    id: str, lang: str, text: str, spans: Mapping[Span, int], repairs: Repairs, file: str | os.PathLike
) -> Iterator[LabelledExample]:
    """Yields the sentences of a document as examples `<id>-1`, `<id>-2`, …; those that a span joins stay one, counted.

    Args:
      spans: character spans in `text`, each with its line in `file`.
    """
    offsets = split_words(text)
    word_spans, problems = to_words(spans, offsets)
    for problem in problems:
        repairs.add(problem.kind, file, spans[problem.span])
    whole = to_characters(word_spans, offsets)

    sentences: list[tuple[int, int]] = []
    for start, end in split_sentences(text, lang):
        cut = sentences and any(span.start < sentences[-1][1] and start < span.end for span in whole)
        if cut:
            repairs.add("sentences joined by a span", file)
            sentences[-1] = (sentences[-1][0], end)
        else:
            sentences.append((start, end))

    for number, (start, end) in enumerate(sentences, start=1):
        inside = [Span(s - start, e - start, label) for s, e, label in whole if start <= s < end]
        example = LabelledExample.from_text(f"{id}-{number}", lang, text[start:end], inside, repairs, id)
        if example.words:  # a line of invisible characters has none
            yield example
