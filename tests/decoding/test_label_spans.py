"""Spans are read from choices exactly, and choices that are no whole output are refused."""

import numpy as np
import pytest

from medmt5.decoding.label_spans import choices_to_spans


def spans_of(choices, word_lengths):
    """The same by walking, for outputs known to be permitted."""
    boundaries, spans, copied, opened = np.cumsum([0, *word_lengths]).tolist(), [], 0, None
    for choice in choices:
        word = boundaries.index(copied) if copied in boundaries else None
        if choice == 0:
            copied += 1
        elif choice >= 2:
            opened = (word, choice - 2)
        elif opened is not None:
            spans.append((opened[0], word, opened[1]))
            opened = None
    return spans


@pytest.mark.parametrize("word_lengths", [(), (2,), (1, 1, 1, 1), (3, 1, 2)])
def test_every_permitted_output_gives_its_spans(word_lengths, permitted_outputs):
    read = []
    for choices in permitted_outputs(word_lengths, (0, 1)):
        spans = choices_to_spans(np.array([*choices, -1, -1]), word_lengths, num_labels=2)
        assert spans == spans_of(choices, word_lengths)
        read.append(tuple(spans))
    assert len(set(read)) == len(read)


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ([], "copy 0 of 3 pieces"),
        ([-1, -1], "copy 0 of 3 pieces"),
        ([0, 0], "copy 2 of 3 pieces"),
        ([2, 0, 0, 0, 1], "open 1 tags and end 1 times"),
        ([2, 0, 1, 0, 0, 1], "within a word"),
        ([4, 0, 0, 1, 0, 1], "open label 2, there are 2 labels"),
    ],
)
def test_choices_that_are_no_whole_output_of_the_sentence_are_refused(choices, message):
    with pytest.raises(ValueError, match=message):
        choices_to_spans(np.array(choices, np.int32), [2, 1], num_labels=2)
