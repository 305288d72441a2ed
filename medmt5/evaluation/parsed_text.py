"""The number that Medical mT5's authors published: entity F1 of labels that are parsed from decoded text.

As in their Sequence-Labeling-LLMs (evaluate.py): gold and prediction are tagged text, cut into words at tags and white
space; any closing tag closes, an opening one opens anew, what is not closed reaches to the end; the prediction gets O
for words it lacks and loses those it has too many; then seqeval's default mode, with 1 for 0/0. docs/architecture.md
says where that differs from `span_scores`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from medmt5.annotation.spans import Span, tags_to_spans
from medmt5.annotation.tagged_text import render
from medmt5.evaluation.span_scores import Counts, Scores, score_spans


def parse_tags(text: str, labels: Sequence[str]) -> list[str]:
    """Returns the IOB2 tags of the words of a tagged text, whatever it looks like. Tags of other labels are words.

    >>> parse_tags("No <Drug>severe<Disease> asthma</Drug>attack", ["Disease", "Drug"])
    ['O', 'B-Drug', 'B-Disease', 'O']
    """
    tag = re.compile(f"<(/?)({'|'.join(map(re.escape, labels))})>")
    tags = []
    prefix, label = "O", ""
    for part in tag.sub(r" \g<0> ", text).split():
        if match := tag.fullmatch(part):
            prefix, label = ("O", "") if match[1] else ("B-", match[2])
        else:
            tags.append(prefix + label)
            prefix = prefix.replace("B", "I")
    return tags


def score_text(words: Sequence[str], gold: Sequence[Span], text: str, labels: Sequence[str]) -> Scores:
    """Returns the counts of one sentence.

    Args:
      words, gold: the sentence and its word spans.
      text: the prediction as tagged text.
      labels: those of the task; their tags are looked for.
    """
    gold_tags = parse_tags(render(words, gold), labels)
    tags = parse_tags(text, labels)[: len(gold_tags)]
    return score_spans([tags_to_spans(gold_tags)], [tags_to_spans(tags)])


def micro_macro_f1(scores: Scores) -> dict[str, float | None]:
    """Returns `micro_f1`, and `macro_f1` over the labels in gold or predictions: None without any, where seqeval gives
    NaN.
    """
    f1 = [_f1(counts) for counts in scores.labels.values()]
    return {"micro_f1": _f1(scores.total), "macro_f1": sum(f1) / len(f1) if f1 else None}


def _f1(counts: Counts) -> float:
    return 2 * counts.correct / (counts.gold + counts.predicted) if counts.gold + counts.predicted else 1.0
