"""Sequence labelling as text to text: `asthma and fever` with its spans becomes `<Disease>asthma</Disease>and fever`.

Models see ids, never the text form: each word is tokenised by itself and tags are single ids of their own, so that a
word that looks like a tag stays a word and what a model writes is read back without guessing. (In a vocabulary without
label tokens tags are pieces like any other, the same as in decoding.) `parse_target` is written
apart from the decoder's automaton (medmt5/decoding), from the same rules, so that each checks the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from medmt5.annotation.labels import check_labels, known_labels
from medmt5.annotation.spans import Span, spans_to_tags


class LabelTokenizer(Protocol):
    """What this module needs of `medmt5.tokenizer.Tokenizer`."""

    eos_id: int

    def encode_words(self, words: Sequence[str]) -> list[list[int]]: ...
    def tag_pieces(self, label: str, closing: bool) -> list[int]: ...


def render(words: Sequence[str], spans: Iterable[Span]) -> str:
    """Returns the form for people; tags stand in the place of a space.

    >>> render(["No", "severe", "asthma", "now"], [Span(1, 3, "Disease")])
    'No<Disease>severe asthma</Disease>now'
    """
    tags = _tags_before_words(spans, len(words))
    parts = []
    for position, word in enumerate([*words, ""]):
        tag = "".join(f"</{label}>" if closes else f"<{label}>" for label, closes in tags[position])
        parts += [tag or (" " if 0 < position < len(words) else ""), word]
    return "".join(parts)


def encode_input(words: Sequence[str], labels: Iterable[str], tokenizer: LabelTokenizer) -> list[int]:
    """Returns ids of the label prompt (opening tags of the labels, in the order of `known_labels`), words and EOS."""
    prompt = sorted(set(check_labels(labels)), key=known_labels().index)
    tags = [tokenizer.tag_pieces(label, closing=False) for label in prompt]
    return [*(piece for pieces in [*tags, *tokenizer.encode_words(words)] for piece in pieces), tokenizer.eos_id]


def encode_target(words: Sequence[str], spans: Iterable[Span], tokenizer: LabelTokenizer) -> list[int]:
    """Returns ids of the words with the tags of the word spans between them, and EOS."""
    tags = _tags_before_words(spans, len(words))
    ids = []
    for position, pieces in enumerate([*tokenizer.encode_words(words), [tokenizer.eos_id]]):
        ids += [piece for label, closes in tags[position] for piece in tokenizer.tag_pieces(label, closes)]
        ids += pieces
    return ids


def parse_target(ids: Sequence[int], pieces_per_word: Sequence[Sequence[int]], tokenizer: LabelTokenizer) -> list[Span]:
    """Returns the word spans of a target; the inverse of `encode_target`, where tags are single ids.

    Args:
      ids: the target, up to and with EOS.
      pieces_per_word: `tokenizer.encode_words(words)` of the input.

    Raises:
      ValueError: with the position at which `ids` leaves the language: words are copied whole and in order, tags stand
        only between
        words, a span holds at least one word, nothing nests, EOS comes last.
    """
    labels = known_labels()
    opens, closes = ({tokenizer.tag_pieces(label, kind)[0]: label for label in labels} for kind in (False, True))
    spans: list[Span] = []
    word, opened = 0, None  # opened: (first word, label) of the open span
    position = 0

    def refuse(rule: str) -> ValueError:
        return ValueError(f"position {position}: {rule}")

    while position < len(ids):
        token = ids[position]
        if token in opens:
            if opened:
                raise refuse(f"<{opens[token]}> inside <{opened[1]}>; spans do not nest")
            opened = (word, opens[token])
            position += 1
        elif token in closes:
            if opened is None or opened[1] != closes[token]:
                raise refuse(f"</{closes[token]}> closes {f'<{opened[1]}>' if opened else 'nothing'}")
            if word == opened[0]:
                raise refuse(f"<{opened[1]}> holds no word")
            spans.append(Span(opened[0], word, opened[1]))
            opened = None
            position += 1
        elif word < len(pieces_per_word):
            for piece in pieces_per_word[word]:
                if position >= len(ids) or ids[position] != piece:
                    raise refuse(f"word {word} is not copied whole")
                position += 1
            word += 1
        else:
            break
    if word < len(pieces_per_word) or opened:
        raise refuse(
            f"ends after {word} of {len(pieces_per_word)} words" if opened is None else f"<{opened[1]}> is never closed"
        )
    if list(ids[position:]) != [tokenizer.eos_id]:
        raise refuse("after the last word must come EOS, and nothing after it")
    return spans


def _tags_before_words(spans: Iterable[Span], num_words: int) -> list[list[tuple[str, bool]]]:
    """Returns for each word, and for the end, the (label, closes) of the tags before it, closing tags first."""
    spans = sorted(spans)
    spans_to_tags(spans, num_words)  # refuses what tagged text cannot express: overlap, empty spans, no such word
    tags: list[list[tuple[str, bool]]] = [[] for _ in range(num_words + 1)]
    for start, end, label in spans:
        tags[start].append((label, False))
        # Spans come sorted and apart, so a neighbour's opening tag is put in after this closing one.
        tags[end].append((label, True))
    return tags
