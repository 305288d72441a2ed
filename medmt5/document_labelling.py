"""Labelling text: documents in, labelled documents out, with character offsets into the text as given. No TensorFlow.

A document is a line of a file, of standard input, or an argument. It is split into sentences and words that keep their
offsets; nothing of it is changed, and
none is lost: an empty line gives an empty document.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import IO, Any

from medmt5.annotation.formats.brat import write_brat
from medmt5.annotation.labels import check_labels
from medmt5.annotation.sentences import split_sentences
from medmt5.annotation.spans import Span, to_characters
from medmt5.annotation.words import split_words
from medmt5.decoding.search import Scoring
from medmt5.errors import InputError
from medmt5.evaluation.marked_text import render_page, render_text
from medmt5.labelling import Labeller
from medmt5.trained_model import load_trained_model

DOCUMENTS_AT_ONCE = 256


def label_documents(
    labeller: Labeller, documents: Sequence[str], labels: Sequence[str], lang: str = "en"
) -> list[dict[str, Any]]:
    """Returns {"text", "spans": [{"start", "end", "label", "text"}], "score"} of each document; offsets in code points,
    end exclusive.

    `lang` chooses the abbreviations that end no sentence.
    """
    places, sentences = [], []
    for number, text in enumerate(documents):
        for start, end in split_sentences(text, lang):
            offsets = [(start + s, start + e) for s, e in split_words(text[start:end])]
            if offsets:
                places.append((number, offsets))
                sentences.append([text[s:e] for s, e in offsets])
    spans: list[list[Span]] = [[] for _ in documents]
    scores: list[list[float]] = [[] for _ in documents]
    for (number, offsets), labelled in zip(places, labeller.label(sentences, labels), strict=True):
        spans[number] += to_characters(labelled.spans, offsets)
        scores[number].append(labelled.score)
    return [
        {
            "text": text,
            "spans": [{"start": s, "end": e, "label": label, "text": text[s:e]} for s, e, label in found],
            "score": round(sum(values) / len(values), 6) if values else None,
        }
        for text, found, values in zip(documents, spans, scores, strict=True)
    ]


def label_files(
    checkpoint: Path,
    labels: Sequence[str],
    *,
    texts: Sequence[str],
    input_file: Path | None,
    output_file: Path | None,
    output_format: str,
    beam_size: int,
    scoring: Scoring,
    batch_size: int,
    lang: str,
) -> None:
    """What `medmt5 label` does: reads `texts`, else `input_file` (`-` is standard input), else standard input, in
    constant memory.
    """
    check_labels(labels)
    if texts and input_file:
        raise InputError("give text as arguments or --input, not both")
    if input_file and str(input_file) != "-" and not input_file.is_file():
        raise InputError(
            f"no such file: {input_file}; give a text file with a document a line, or - for standard input"
        )
    labeller = Labeller(load_trained_model(checkpoint), beam_size=beam_size, scoring=scoring, batch_size=batch_size)
    with contextlib.ExitStack() as stack:
        # brat counts a carriage return as a character of the file, so it stays there.
        line_end = "\n" if output_format == "brat" else "\r\n"
        documents: Iterator[str] = iter(texts) if texts else _lines(stack, input_file, line_end)
        results = _label_in_chunks(labeller, documents, labels, lang)
        output = stack.enter_context(output_file.open("w", encoding="utf-8")) if output_file else sys.stdout
        _write(results, output, output_format, labels)


def _label_in_chunks(
    labeller: Labeller, documents: Iterator[str], labels: Sequence[str], lang: str
) -> Iterator[dict[str, Any]]:
    while chunk := list(islice(documents, DOCUMENTS_AT_ONCE)):
        yield from label_documents(labeller, chunk, labels, lang)


def _lines(stack: contextlib.ExitStack, input_file: Path | None, line_end: str) -> Iterator[str]:
    """Yields the lines without `line_end`'s characters at their ends."""
    if input_file is None or str(input_file) == "-":
        if sys.stdin.isatty():
            print("reading documents from standard input, one a line; end with Ctrl-D", file=sys.stderr)
        stream = sys.stdin.buffer
    else:
        stream = stack.enter_context(input_file.open("rb"))
    for number, line in enumerate(stream, start=1):
        try:
            yield line.decode("utf-8").rstrip(line_end)
        except UnicodeDecodeError as error:
            place = f"{input_file or 'standard input'}:{number}"
            raise InputError(
                f"{place}: not UTF-8 ({error.reason} at byte {error.start} of the line); convert it first"
            ) from error


def _write(results: Iterator[dict[str, Any]], output: IO[str], output_format: str, labels: Sequence[str]) -> None:
    if output_format == "html":
        output.write(render_page(results, labels))
    elif output_format == "brat":
        # One .ann for the whole input, whose offsets brat counts over all lines.
        text, spans = "", []
        for result in results:
            spans += [Span(len(text) + s["start"], len(text) + s["end"], s["label"]) for s in result["spans"]]
            text += result["text"] + "\n"
        output.write(write_brat(text, spans))
    else:
        for result in results:
            spans = [Span(s["start"], s["end"], s["label"]) for s in result["spans"]]
            line = (
                json.dumps(result, ensure_ascii=False)
                if output_format == "jsonl"
                else render_text(result["text"], spans)
            )
            output.write(line + "\n")
            output.flush()
