"""A trained model as a function: words in, spans out. What `medmt5 label` and `medmt5 evaluate` share. No TensorFlow.

Every output parses and is its input, whatever the weights: the search only walks tagged copies of the sentence. A
sentence longer than the length the model was trained with is labelled in several windows, cut between words, never
truncated.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from medmt5.annotation.labels import LABELS, check_labels
from medmt5.annotation.spans import Span
from medmt5.decoding.buckets import bucket_length
from medmt5.decoding.constrained import make_label_decoder
from medmt5.decoding.label_automaton import build_tables
from medmt5.decoding.label_spans import choices_to_spans
from medmt5.decoding.search import Scoring
from medmt5.errors import InputError
from medmt5.trained_model import TrainedModel


@dataclasses.dataclass(frozen=True)
class Labelled:
    """Spans in word offsets, in order, and the best hypothesis's mean log-probability a token."""

    spans: tuple[Span, ...]
    score: float


@dataclasses.dataclass(frozen=True)
class _Window:
    """Words [first, first + len(pieces)) of a sentence, as ids."""

    sentence: int
    first: int
    pieces: list[list[int]]
    labels: tuple[str, ...]

    @property
    def num_pieces(self) -> int:
        return sum(map(len, self.pieces))


class Labeller:
    """Labels sentences with one model.

    Args:
      beam_size: 1 is greedy.
      scoring: see `decoding.search`.
      batch_size: sentences decoded at once.
    """

    def __init__(self, model: TrainedModel, *, beam_size: int = 4, scoring: Scoring = "full", batch_size: int = 32):
        if beam_size < 1 or batch_size < 1:
            raise InputError(f"--beam and --batch_size must be at least 1, not {beam_size} and {batch_size}")
        self.model = model
        self._batch_size = batch_size
        self._decode = make_label_decoder(model.config, model.mesh, beam_size=beam_size, scoring=scoring)

    def label(self, sentences: Sequence[Sequence[str]], labels: Sequence[str]) -> list[Labelled]:
        """Returns the spans of each sentence, given as its words. `labels` are those permitted, and the model's prompt.

        Raises InputError for a label that the model does not know.
        """
        check_labels(labels)
        labels = tuple(label for label in LABELS if label in labels)  # the order of the prompt in training
        known = self.model.tokenizer.labels
        unknown = [label for label in labels if label not in known]
        if unknown:
            raise InputError(f"this model has no label {', '.join(unknown)}; it has {', '.join(known)}")
        windows = [window for i, words in enumerate(sentences) for window in self._windows(i, words, labels)]
        spans: list[list[Span]] = [[] for _ in sentences]
        scores: list[list[tuple[float, int]]] = [[] for _ in sentences]
        for window, (found, score, length) in self._decode_windows(windows, labels):
            spans[window.sentence] += [Span(s + window.first, e + window.first, labels[label]) for s, e, label in found]
            scores[window.sentence].append((score, length))
        return [Labelled(tuple(sorted(s)), _mean(p)) for s, p in zip(spans, scores, strict=True)]

    def _windows(self, sentence: int, words: Sequence[str], labels: tuple[str, ...]) -> Iterator[_Window]:
        """Cuts a sentence where its pieces, the prompt and EOS would exceed the trained length."""
        room = max(1, self.model.feature_lengths["inputs"] - len(labels) - 1)
        taken: list[list[int]] = []
        first, size = 0, 0
        for index, pieces in enumerate(self.model.tokenizer.encode_words(words)):
            if taken and size + len(pieces) > room:
                yield _Window(sentence, first, taken, labels)
                first, size, taken = index, 0, []
            taken.append(pieces)
            size += len(pieces)
        if taken:
            yield _Window(sentence, first, taken, labels)

    def _decode_windows(self, windows: list[_Window], labels: tuple[str, ...]):
        """Yields (window, (spans as (start, end, label index), score, tokens)), windows of like length together."""
        prompt = [self.model.tokenizer.open_id(label) for label in labels]
        closing = [self.model.tokenizer.close_id(label) for label in labels]
        by_length = sorted(windows, key=lambda w: w.num_pieces)
        for at in range(0, len(by_length), self._batch_size):
            batch = by_length[at : at + self._batch_size]
            # Always a full batch: one program a length, whatever is left at the end.
            pieces = [w.pieces for w in batch] + [[]] * (self._batch_size - len(batch))
            longest = max(w.num_pieces for w in batch)
            tables = build_tables(pieces, prompt, closing, [True] * len(labels), bucket_length(longest))
            num_steps = bucket_length(max(w.num_pieces + 2 * len(w.pieces) for w in batch) + 1)
            inputs = np.zeros((self._batch_size, bucket_length(longest + len(prompt) + 1)), np.int32)
            for row, words in enumerate(pieces):
                ids = [*prompt, *(i for word in words for i in word), self.model.tokenizer.eos_id]
                inputs[row, : len(ids)] = ids
            best = jax.device_get(self._decode(self.model.params, jnp.asarray(inputs), tables, num_steps))
            for row, window in enumerate(batch):
                spans = choices_to_spans(best.choices[row, 0], [len(p) for p in window.pieces], len(labels))
                yield window, (spans, float(best.scores[row, 0]), int(best.lengths[row, 0]))


def _mean(scores: list[tuple[float, int]]) -> float:
    tokens = sum(length for _, length in scores)
    return sum(score * length for score, length in scores) / tokens if tokens else 0.0
