"""How SeqIO's evaluator, and so T5X's, scores labelling tasks: entity micro-F1 of labels parsed from decoded text.

`medmt5 evaluate` scores the decoder's choices instead, which need no parsing. Both give the same number wherever the
decoded text is the sentence: then the words of the one are those of the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from medmt5.annotation.spans import Span, tags_to_spans
from medmt5.evaluation.parsed_text import parse_tags
from medmt5.evaluation.span_scores import score_spans
from medmt5.tasks.vocabulary import VOCABULARY


def to_spans(text: str, *, example: Mapping[str, Any], is_target: bool, labels: Sequence[str]) -> list[Span]:
    """Returns the word spans of a task's target, as its tags have them, or of decoded text; SeqIO's `postprocess_fn`.

    Words and tags are told apart by white space and the labels' names, whatever the text looks like; what is never
    closed reaches to the end, and what lies behind the sentence's last word is cut off.
    """
    if is_target:
        return tags_to_spans([tag.decode("utf-8") for tag in example["tags"]])
    tokenizer = VOCABULARY.tokenizer
    pieces = tokenizer.encode_words([word.decode("utf-8") for word in example["words"]])
    # A word can be two between spaces once it is normalised: "´" becomes a space and a combining accent.
    word_at = [word for word, ids in enumerate(pieces) for _ in tokenizer.decode(ids).split()]
    spans = tags_to_spans(parse_tags(text, labels)[: len(word_at)])
    return [Span(word_at[start], word_at[end - 1] + 1, label) for start, end, label in spans]


def entity_f1(targets: Sequence[Sequence[Span]], predictions: Sequence[Sequence[Span]]) -> dict[str, float]:
    """Returns micro "f1", "precision" and "recall", 0 to 1; one that does not exist is left out."""
    scores = score_spans(targets, predictions).total.to_json()
    return {name: scores[name] for name in ("f1", "precision", "recall") if scores[name] is not None}
