"""From the choices of one hypothesis back to spans of words, on the host. Reads choices, never ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from medmt5.decoding.label_automaton import COPY, END, OPEN


class Tags(NamedTuple):
    """The tags that the choices of one output write, in order; where in the choices, [tags] each, whole or not.

    begin: the first choice of an opening tag; opened: its last, which names the label; closed: the last of a closing
    tag, and at the end EOS.
    """

    begin: np.ndarray
    opened: np.ndarray
    closed: np.ndarray


def find_tags(choices: np.ndarray) -> Tags:
    """A run of like choices is a tag, whatever pieces it has; EOS, the last choice, belongs to none."""
    kinds = np.minimum(choices[choices >= 0], OPEN)
    changes = kinds[1:] != kinds[:-1]
    changes[-1:] = True
    first, last = np.append(True, changes)[: len(kinds)], np.append(changes, True)[: len(kinds)]
    opens, ends = kinds == OPEN, kinds == END
    return Tags(np.flatnonzero(first & opens), np.flatnonzero(last & opens), np.flatnonzero(last & ends))


def choices_to_spans(choices: np.ndarray, word_lengths: Sequence[int], num_labels: int) -> list[tuple[int, int, int]]:
    """Returns the spans (start word, end word exclusive, label index) of one hypothesis, in order.

    >>> choices_to_spans(np.array([0, 3, 0, 0, 1, 1, -1]), word_lengths=[1, 2], num_labels=2)
    [(1, 2, 1)]

    (The tokens were: piece, <label 1>, piece, piece, </label 1>, EOS.) Tags of two pieces give the same:

    >>> choices_to_spans(np.array([0, 2, 3, 0, 0, 1, 1, 1, -1]), word_lengths=[1, 2], num_labels=2)
    [(1, 2, 1)]

    Args:
      choices: [num_steps] int32 of `search.LabelHypotheses`, -1 = padding.
      word_lengths: pieces of each word of the sentence.

    Raises:
      ValueError: the choices do not end the sentence (`num_steps` was below `max_steps`), or belong to other words or
        labels.
    """
    choices = np.asarray(choices)
    copied = np.cumsum(choices == COPY)
    _, opens, ends = find_tags(choices)
    num_pieces = sum(word_lengths)
    if len(ends) != len(opens) + 1 or copied[ends[-1]] != num_pieces:
        raise ValueError(
            f"choices copy {copied[-1] if copied.size else 0} of {num_pieces} pieces, open {len(opens)} tags and end "
            f"{len(ends)} times: not the whole output of this sentence; was num_steps below max_steps(tables)?"
        )
    labels = choices[opens] - OPEN
    if labels.max(initial=-1) >= num_labels:
        raise ValueError(f"choices open label {labels.max()}, there are {num_labels} labels")
    word_starts = np.concatenate([[0], np.cumsum(word_lengths, dtype=int)])
    starts, stops = (np.searchsorted(word_starts, copied[at]) for at in (opens, ends[:-1]))
    if not np.array_equal(word_starts[[*starts, *stops]], copied[[*opens, *ends[:-1]]]):
        raise ValueError("choices set a tag within a word: they belong to a sentence of other word lengths")
    return list(zip(starts.tolist(), stops.tolist(), labels.tolist(), strict=True))
