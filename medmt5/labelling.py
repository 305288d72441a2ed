"""A trained model as a function: words in, spans out. What `medmt5 label`, `evaluate` and `serve` share. No TensorFlow.

Every output parses and is its input, whatever the weights: the search only walks tagged copies of the sentence. A
sentence longer than the length the model was trained with is labelled in windows that overlap, never truncated.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from medmt5.annotation.labels import LABELS, check_labels
from medmt5.annotation.spans import Span
from medmt5.decoding.buckets import bucket_length
from medmt5.decoding.constrained import make_label_decoder
from medmt5.decoding.label_automaton import build_tables
from medmt5.decoding.label_scores import Scoring
from medmt5.decoding.span_probabilities import Hypothesis, score_hypotheses
from medmt5.decoding.windows import cut_windows, merge_spans
from medmt5.errors import InputError
from medmt5.trained_model import TrainedModel

logger = logging.getLogger(__name__)

Labels = Sequence[str] | Sequence[Sequence[str]]
"""Those permitted: of all texts, or a list for each."""


class ScoredSpan(NamedTuple):
    """A span in words of its sentence, and how sure the model is of it; see `decoding.span_probabilities`."""

    span: Span
    probability: float
    local_probability: float


class Alternative(NamedTuple):
    """One of the N best: its spans in words, mean log-probability a token, and share of the N best's probability."""

    spans: tuple[Span, ...]
    score: float
    probability: float


class Passage(NamedTuple):
    """What was decoded at once, a sentence or a window of one: words [start, end), and its N best, best first."""

    start: int
    end: int
    alternatives: tuple[Alternative, ...]


@dataclasses.dataclass(frozen=True)
class Labelled:
    """A labelled sentence.

    Attributes:
      scored_spans: in order, apart from each other.
      score: the mean log-probability a token of the best hypothesis, over all windows.
      decoder_passes: calls of the model, over all windows.
      passages: one, or several if the sentence is longer than the model reads; none without words.
    """

    scored_spans: tuple[ScoredSpan, ...]
    score: float
    decoder_passes: int
    passages: tuple[Passage, ...]

    @property
    def spans(self) -> tuple[Span, ...]:
        return tuple(scored.span for scored in self.scored_spans)


@dataclasses.dataclass(frozen=True)
class _Window:
    """Words [first, first + len(pieces)) of a sentence, as ids; the indices of its permitted labels."""

    sentence: int
    first: int
    pieces: list[list[int]]
    permitted: tuple[int, ...]

    @property
    def num_pieces(self) -> int:
        return sum(map(len, self.pieces))


class _Tags(NamedTuple):
    """The pieces of each label's opening and closing tag: one each where the vocabulary has label tokens."""

    opening: list[list[int]]
    closing: list[list[int]]


class _Decoded(NamedTuple):
    """The hypotheses of a window, best first, with their scores and lengths in tokens, and calls of the model."""

    hypotheses: list[Hypothesis]
    scores: list[float]
    lengths: list[int]
    passes: int


class Labeller:
    """Labels sentences with one model.

    Args:
      beam_size: hypotheses kept, and so the N of the N best; 1 is greedy.
      scoring: see `decoding.search`.
      batch_size: sentences decoded at once.
    """

    def __init__(
        self, model: TrainedModel, *, beam_size: int = 4, scoring: Scoring = "full", batch_size: int = 32
    ) -> None:
        if beam_size < 1 or batch_size < 1:
            raise InputError(f"--beam and --batch_size must be at least 1, not {beam_size} and {batch_size}")
        self.model = model
        self.beam_size = beam_size
        self._batch_size = batch_size
        self._spelled: set[str] = set()
        self._decode = make_label_decoder(model.config, model.mesh, beam_size=beam_size, scoring=scoring)

    def label(self, sentences: Sequence[Sequence[str]], labels: Labels) -> list[Labelled]:
        """Returns the spans of each sentence, given as its words.

        Args:
          labels: those permitted, and named in the prompt of a model that has one: one list for all sentences, or a
            list for each. A model without label tokens spells any.

        Raises:
          InputError: a label that the model does not know; lists of labels that are not one a sentence.
        """
        tokenizer = self.model.tokenizer
        of_sentence = labels_of_each(labels, len(sentences), tokenizer.labels)
        names = tokenizer.labels or self._spell(name for wanted in of_sentence for name in wanted)
        tags = _Tags(*([tokenizer.tag_pieces(name, closing) for name in names] for closing in (False, True)))
        # In the order of the prompt in training.
        permitted = [tuple(i for i, name in enumerate(names) if name in wanted) for wanted in of_sentence]
        decoded: dict[int, list[tuple[_Window, _Decoded]]] = {}
        for window, found in self._decode_windows(self._cut(sentences, permitted, tags), tags):
            decoded.setdefault(window.sentence, []).append((window, found))
        return [_merge(decoded.get(i, []), names) for i in range(len(sentences))]

    def _spell(self, names: Iterable[str]) -> tuple[str, ...]:
        """Returns these labels and all that were asked for before, so that the same programs serve them."""
        self._spelled.update(names)
        return tuple(
            sorted(self._spelled, key=lambda name: (LABELS.index(name) if name in LABELS else len(LABELS), name))
        )

    def _cut(
        self, sentences: Sequence[Sequence[str]], permitted: Sequence[tuple[int, ...]], tags: _Tags
    ) -> list[_Window]:
        """Cuts sentences where their pieces, the prompt and EOS would exceed the trained length."""
        tokenizer, max_inputs = self.model.tokenizer, self.model.feature_lengths["inputs"]
        windows, cut_words = [], 0
        for number, words in enumerate(sentences):
            prompt = sum(len(tags.opening[i]) for i in permitted[number]) if self.model.label_prompt else 0
            room = max(1, max_inputs - prompt - 1)
            pieces = tokenizer.encode_words(words)
            cut_words += sum(len(ids) > room for ids in pieces)
            pieces = [ids[:room] for ids in pieces]
            windows += [
                _Window(number, first, pieces[first:end], permitted[number])
                for first, end in cut_windows([len(ids) for ids in pieces], room)
            ]
        if cut_words:
            logger.warning(
                "%d words have more pieces than the model's %d input tokens hold; it sees only the first ones of each",
                cut_words,
                max_inputs,
            )
        return windows

    def _decode_windows(self, windows: list[_Window], tags: _Tags) -> Iterator[tuple[_Window, _Decoded]]:
        """Yields them in any order, windows of like length together, the longest first.

        Two batches are under way at once: one is made, or read back, while the device works on the other; and of the
        small products of a decoder one alone does not keep a CPU busy.
        """
        by_length = sorted(windows, key=lambda w: -w.num_pieces)
        batches = [by_length[at : at + self._batch_size] for at in range(0, len(by_length), self._batch_size)]
        with ThreadPoolExecutor(2) as pool:
            for batch, decoded in zip(batches, pool.map(partial(self._decode_batch, tags), batches), strict=True):
                yield from zip(batch, decoded, strict=True)

    def _decode_batch(self, tags: _Tags, batch: list[_Window]) -> list[_Decoded]:
        """Always a full batch, and a table of all labels the model has, permitted or not: one program a length,
        whatever is left at the end and whatever is asked for.
        """
        tokenizer = self.model.tokenizer
        num_labels = len(tags.opening)
        pieces = [w.pieces for w in batch] + [[]] * (self._batch_size - len(batch))
        prompts = [
            [id for i in w.permitted for id in tags.opening[i]] if self.model.label_prompt else [] for w in batch
        ]
        permitted = np.zeros((self._batch_size, num_labels), bool)
        for row, window in enumerate(batch):
            permitted[row, list(window.permitted)] = True
        longest = max(w.num_pieces for w in batch)
        tables = build_tables(pieces, tags.opening, tags.closing, permitted, bucket_length(longest))
        of_word = max((len(opens) + len(closes) for opens, closes in zip(*tags, strict=True)), default=0)
        num_steps = bucket_length(max(w.num_pieces + of_word * len(w.pieces) for w in batch) + 1)
        inputs = np.zeros((self._batch_size, bucket_length(longest + max(map(len, prompts)) + 1)), np.int32)
        inputs[:, 0] = tokenizer.eos_id  # of rows without a sentence
        for row, (prompt, words) in enumerate(zip(prompts, pieces, strict=False)):
            ids = [*prompt, *(i for word in words for i in word), tokenizer.eos_id]
            inputs[row, : len(ids)] = ids
        best = self._decode(self.model.params, jnp.asarray(inputs), tables, num_steps)
        best = jax.device_get(best)
        decoded = []
        for row, window in enumerate(batch):
            word_lengths = [len(ids) for ids in window.pieces]
            hypotheses = score_hypotheses(
                best.choices[row], best.local_log_probs[row], best.sums[row], word_lengths, num_labels
            )
            scores, lengths = (x[row, : len(hypotheses)].tolist() for x in (best.scores, best.lengths))
            decoded.append(_Decoded(hypotheses, scores, lengths, int(best.decoder_passes[row])))
        return decoded


def labels_of_each(labels: Labels, count: int, known: Sequence[str]) -> list[tuple[str, ...]]:
    """Returns the labels of each of `count` texts.

    >>> labels_of_each(["Drug"], 2, known=["Disease", "Drug"])
    [('Drug',), ('Drug',)]
    >>> labels_of_each([["Drug"], []], 2, known=["Disease", "Drug"])
    [('Drug',), ()]

    Raises:
      InputError: a label that is not `known`, if there are no texts too; one string; another number of lists than of
        texts.
    """
    if isinstance(labels, str):
        raise InputError(f"labels must be a list of names, or a list for each text, not the string {labels!r}")
    lists = [one for one in labels if not isinstance(one, str)]
    if not lists:
        return [check_labels(labels, known)] * count  # type: ignore[arg-type]
    if len(lists) != len(labels) or len(lists) != count:
        raise InputError(
            f"labels must be names, or a list of names for each of the {count} texts; got {len(lists)} lists and "
            f"{len(labels) - len(lists)} names"
        )
    return [check_labels(one, known) for one in lists]


def _merge(decoded: Iterable[tuple[_Window, _Decoded]], names: Sequence[str]) -> Labelled:
    """Makes the windows of one sentence a labelled sentence."""
    decoded = sorted(decoded, key=lambda pair: pair[0].first)
    passages = tuple(
        Passage(
            window.first,
            window.first + len(window.pieces),
            tuple(
                Alternative(
                    tuple(Span(s.start + window.first, s.end + window.first, names[s.label]) for s in hypothesis.spans),
                    score,
                    hypothesis.probability,
                )
                for hypothesis, score in zip(found.hypotheses, found.scores, strict=True)
            ),
        )
        for window, found in decoded
    )
    best = [[(s.start, s.end) for s in passage.alternatives[0].spans] for passage in passages]
    scored = []
    for number, index in merge_spans([(p.start, p.end) for p in passages], best):
        span = decoded[number][1].hypotheses[0].spans[index]
        scored.append(
            ScoredSpan(passages[number].alternatives[0].spans[index], span.probability, span.local_probability)
        )
    tokens = sum(found.lengths[0] for _, found in decoded)
    total = sum(found.scores[0] * found.lengths[0] for _, found in decoded)
    passes = sum(found.passes for _, found in decoded)
    return Labelled(tuple(scored), total / tokens if tokens else 0.0, passes, passages)
