"""Labelling text: documents in, labelled documents out, with character offsets into the text as given. No TensorFlow.

A document is split into sentences and words that keep their offsets; nothing of it is changed, and none is lost: an
empty document, or one of blanks and control characters, is a document without sentences.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from medmt5.annotation.sentences import split_sentences
from medmt5.annotation.spans import Span, to_characters
from medmt5.annotation.words import split_words
from medmt5.errors import InputError
from medmt5.labelling import Labelled, Labeller, Labels, Passage, labels_of_each

WordOffsets = list[tuple[int, int]]
"""Start and end of each word of a sentence, in characters of its document."""


def label_documents(
    labeller: Labeller,
    documents: Sequence[str],
    labels: Labels,
    lang: str = "en",
    *,
    threshold: float = 0.0,
    n_best: int = 1,
) -> list[dict[str, Any]]:
    """Returns of each document what is a line of JSON; offsets in code points of its text, end exclusive:

        {"text",
         "spans": [{"start", "end", "label", "text", "probability", "local_probability"}],   in order, apart
         "score": mean over the sentences, null without any,
         "sentences", "windows": how many; more windows than sentences if some were longer than the model reads,
         "alternatives": [{"start", "end", "n_best": [{"spans", "score", "probability"}]}]}   of each window,
                                                                                          only with n_best above 1

    Args:
      labels: those permitted: one list for all documents, or a list for each.
      lang: whose abbreviations end no sentence.
      threshold: spans of a lower `probability` are left out; the alternatives have them.
      n_best: how many outputs of each window to tell, at most the labeller's `beam_size`.

    Raises:
      InputError: see `Labeller.label`; a threshold or n_best out of range; a text with a lone surrogate.
    """
    if not 0 <= threshold <= 1:
        raise InputError(f"--threshold is a probability, 0 to 1, not {threshold}")
    if not 1 <= n_best <= labeller.beam_size:
        raise InputError(f"--n_best must be 1 to --beam = {labeller.beam_size}, not {n_best}; raise --beam for more")
    of_document = labels_of_each(labels, len(documents), labeller.model.tokenizer.labels)
    for number, text in enumerate(documents):
        if surrogate := re.search(r"[\ud800-\udfff]", text):
            raise InputError(
                f"text {number} holds a lone surrogate at character {surrogate.start()}: bytes that were not UTF-8, or "
                "half of a UTF-16 pair; decode it rightly first"
            )
    sentences = [split_document(text, lang) for text in documents]
    words = [[text[s:e] for s, e in one] for text, some in zip(documents, sentences, strict=True) for one in some]
    permitted = [names for names, some in zip(of_document, sentences, strict=True) for _ in some]
    labelled = iter(labeller.label(words, permitted))
    return [
        describe_document(text, some, [next(labelled) for _ in some], threshold, n_best)
        for text, some in zip(documents, sentences, strict=True)
    ]


def split_document(text: str, lang: str) -> list[WordOffsets]:
    """Returns where the words of each sentence are; of sentences that have any.

    >>> split_document("No asthma. Fever?", "en")
    [[(0, 2), (3, 9), (9, 10)], [(11, 16), (16, 17)]]
    """
    sentences = split_sentences(text, lang)
    found = [[(start + s, start + e) for s, e in split_words(text[start:end])] for start, end in sentences]
    return [offsets for offsets in found if offsets]


def describe_document(
    text: str, sentences: Sequence[WordOffsets], found: Sequence[Labelled], threshold: float = 0.0, n_best: int = 1
) -> dict[str, Any]:
    """Returns what `label_documents` does of a text, of its sentences as `split_document` made them."""
    pairs = list(zip(sentences, found, strict=True))
    spans = []
    for offsets, labelled in pairs:
        kept = [scored for scored in labelled.scored_spans if scored.probability >= threshold]
        described = _describe_spans(text, [scored.span for scored in kept], offsets)
        for scored, span in zip(kept, described, strict=True):
            probabilities = {
                "probability": round(scored.probability, 6),
                "local_probability": round(scored.local_probability, 6),
            }
            spans.append(span | probabilities)
    scores = [labelled.score for _, labelled in pairs]
    result = {
        "text": text,
        "spans": spans,
        "score": round(sum(scores) / len(scores), 6) if scores else None,
        "sentences": len(pairs),
        "windows": sum(len(labelled.passages) for _, labelled in pairs),
    }
    if n_best > 1:
        result["alternatives"] = [
            _describe_passage(text, passage, offsets, n_best)
            for offsets, labelled in pairs
            for passage in labelled.passages
        ]
    return result


def _describe_passage(text: str, passage: Passage, offsets: WordOffsets, n_best: int) -> dict[str, Any]:
    return {
        "start": offsets[passage.start][0],
        "end": offsets[passage.end - 1][1],
        "n_best": [
            {
                "spans": _describe_spans(text, list(alternative.spans), offsets),
                "score": round(alternative.score, 6),
                "probability": round(alternative.probability, 6),
            }
            for alternative in passage.alternatives[:n_best]
        ],
    }


def _describe_spans(text: str, word_spans: list[Span], offsets: WordOffsets) -> list[dict[str, Any]]:
    return [
        {"start": s, "end": e, "label": label, "text": text[s:e]} for s, e, label in to_characters(word_spans, offsets)
    ]
