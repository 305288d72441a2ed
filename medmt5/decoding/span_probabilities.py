"""How sure a hypothesis is of its spans, on the host: once by the N best, once by the decisions that make a span.

probability        of all the probability that the N best hold, the share of those with the same start, end and
                   label. With all permitted outputs among the N best it is the exact posterior; with one
                   hypothesis it is 1
local_probability  of the decisions that make the span, each against the other permitted candidates: the tag is
                   opened here, not closed at the word ends inside, and closed at its end. One hypothesis is enough
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from medmt5.decoding.label_spans import choices_to_spans, find_tags


class ScoredSpan(NamedTuple):
    """Words [start, end) with a label's index; see the module's docstring for the probabilities."""

    start: int
    end: int
    label: int
    probability: float
    local_probability: float


class Hypothesis(NamedTuple):
    """The spans of one output, in order, and its share of the probability of the N best."""

    spans: list[ScoredSpan]
    probability: float


def score_hypotheses(
    choices: np.ndarray,
    local_log_probs: np.ndarray,
    sums: np.ndarray,
    word_lengths: Sequence[int],
    num_labels: int,
) -> list[Hypothesis]:
    """Returns the hypotheses of one sentence in the order they are given, those with a sum of -inf left out.

    >>> local = np.log([[1, 0.8, 1, 1], [0.5, 1, 0.5, 1]])  # of: copy, EOS; open label 0, copy, close, EOS
    >>> choices = np.array([[0, 1, -1, -1], [2, 0, 1, 1]])
    >>> plain, tagged = score_hypotheses(choices, local, np.log([0.3, 0.1]), word_lengths=[1], num_labels=1)
    >>> plain.spans, round(plain.probability, 3)
    ([], 0.75)
    >>> [tuple(round(x, 3) for x in span) for span in tagged.spans]
    [(0, 1, 0, 0.25, 0.25)]

    Args:
      choices, local_log_probs: [beam, num_steps] of `search.LabelHypotheses`.
      sums: [beam] total log-probabilities, by any scoring.
      word_lengths: pieces of each word of the sentence.

    Raises:
      ValueError: see `label_spans.choices_to_spans`; no hypothesis at all.
    """
    sums = np.asarray(sums, np.float64)
    found = np.flatnonzero(~np.isneginf(sums))
    if not found.size:
        raise ValueError("no hypothesis has ended; was num_steps below max_steps(tables)?")
    shares = np.exp(sums[found] - sums[found].max())
    shares /= shares.sum()
    spans = [choices_to_spans(choices[i], word_lengths, num_labels) for i in found]
    marginals: dict[tuple[int, int, int], float] = {}
    for share, of_hypothesis in zip(shares.tolist(), spans, strict=True):
        for span in of_hypothesis:
            marginals[span] = marginals.get(span, 0.0) + share
    return [
        Hypothesis(
            [
                # Not above 1, which a sum of rounded shares can be.
                ScoredSpan(*span, min(1.0, marginals[span]), local)
                for span, local in zip(of_hypothesis, _local_probabilities(choices[i], local_log_probs[i]), strict=True)
            ],
            share,
        )
        for i, of_hypothesis, share in zip(found, spans, shares.tolist(), strict=True)
    ]


def _local_probabilities(choices: np.ndarray, local_log_probs: np.ndarray) -> list[float]:
    """Returns one a span. What is forced between its tags has log-probability 0, so that all can be added up."""
    begin, _, ends = find_tags(np.asarray(choices))
    log_probs = np.asarray(local_log_probs, np.float64)
    return [
        float(np.exp(log_probs[start : stop + 1].sum())) for start, stop in zip(begin, ends[: len(begin)], strict=True)
    ]
