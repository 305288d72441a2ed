"""SentencePiece plus label tokens: text and words to ids, and back.

Ids below `num_pieces` are SentencePiece's own, sentinels included; above them stand two ids a label, opening and
closing. Special ids (sentinels, labels, EOS, pad) are put in by code and never come out of encoding text: a text that
holds `<extra_id_0>` or `</s>` stays text.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import sentencepiece

from medmt5.annotation.labels import known_labels
from medmt5.errors import InputError
from medmt5.vocabularies import VOCABULARIES, vocabulary_file

NUM_SENTINELS = 100
ENVIRONMENT_VARIABLE = "MEDMT5_VOCABULARY"


class Tokenizer:
    """Ids of a SentencePiece model of T5's conventions (pad 0, eos 1, unk 2) with label tokens appended.

    Args:
      model_file: the SentencePiece model; mT5's own or one by `train_vocabulary`. Or the name of a published one,
        "mt5", which is fetched once (`vocabularies.vocabulary_file`).
      labels: label i opens with id `num_pieces + 2 i` and closes with `num_pieces + 2 i + 1`; None: all there are.
    """

    pad_id, eos_id, unk_id = 0, 1, 2

    def __init__(self, model_file: str | os.PathLike, labels: Sequence[str] | None = None):
        path = vocabulary_file(model_file)
        if not path.is_file():
            raise InputError(
                f"no SentencePiece model at {path}; give the path of one, the name of a published one "
                f"({', '.join(VOCABULARIES)}), or make one: medmt5 vocabulary --help"
            )
        data = path.read_bytes()
        self.model_file = path
        self.sha256 = hashlib.sha256(data).hexdigest()
        self.labels = known_labels() if labels is None else tuple(labels)
        try:
            self._pieces = sentencepiece.SentencePieceProcessor(model_proto=data)
        except RuntimeError as error:
            raise InputError(f"{path} is not a SentencePiece model ({len(data)} bytes)") from error
        ids = (self._pieces.pad_id(), self._pieces.eos_id(), self._pieces.unk_id())
        if ids != (self.pad_id, self.eos_id, self.unk_id):
            raise InputError(f"{path}: pad, eos and unk must have the ids 0, 1, 2 as in T5's vocabularies, not {ids}")
        self._label_index = {label: i for i, label in enumerate(self.labels)}
        # A special token's text, met in a document, is cut in two so that it becomes ordinary pieces.
        self._special_as_text = {
            int(i): self._pieces.encode(text[:3]) + self._pieces.encode(text[3:])
            for i in self.sentinel_ids
            for text in [self._pieces.id_to_piece(int(i)).lstrip("▁")]
        }

    @classmethod
    def default(cls) -> Tokenizer:
        """Returns the tokenizer of the model that $MEDMT5_VOCABULARY names, a path or "mt5"."""
        path = os.environ.get(ENVIRONMENT_VARIABLE)
        if not path:
            raise InputError(f"set {ENVIRONMENT_VARIABLE} to the path of a SentencePiece model, or to mt5")
        return cls(path)

    @property
    def num_pieces(self) -> int:
        return len(self._pieces)

    @property
    def size(self) -> int:
        """Number of ids, labels included: an embedding matrix needs at least as many rows."""
        return self.num_pieces + 2 * len(self.labels)

    @cached_property
    def sentinel_ids(self) -> np.ndarray:
        """[100] int32: the id of `<extra_id_0>` first. In mT5's vocabulary they descend from 250,099."""
        ids = []
        for number in range(NUM_SENTINELS):
            name = f"<extra_id_{number}>"
            # mT5's file spells them with SentencePiece's word mark in front.
            found = [i for i in map(self._pieces.piece_to_id, (name, f"▁{name}")) if i != self.unk_id]
            if not found:
                raise InputError(
                    f"{self.model_file} has no piece {name}; span corruption needs {NUM_SENTINELS} sentinels"
                )
            ids.append(found[0])
        return np.array(ids, np.int32)

    def open_id(self, label: str) -> int:
        return self.num_pieces + 2 * self._index_of(label)

    def close_id(self, label: str) -> int:
        return self.num_pieces + 2 * self._index_of(label) + 1

    def tag_pieces(self, label: str, closing: bool) -> list[int]:
        """Returns the ids that write a tag: its token; in a vocabulary without label tokens, the pieces of its text.

        Models that were fine-tuned elsewhere without added tokens write `<Disease>` as several ordinary pieces.
        """
        if self.labels:
            return [self.close_id(label) if closing else self.open_id(label)]
        return self.encode(f"</{label}>" if closing else f"<{label}>")

    def encode(self, text: str) -> list[int]:
        """Returns the ids of a text, without EOS. Never a special id; may be empty (blanks, control characters)."""
        return self._without_specials(self._pieces.encode(text))

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [self._without_specials(ids) for ids in self._pieces.encode(list(texts))]

    def encode_words(self, words: Sequence[str]) -> list[list[int]]:
        """Returns the ids of each word, each at least one long: a word that normalises to nothing becomes unk, so that
        none vanishes.
        """
        return [ids or [self.unk_id] for ids in self.encode_batch(words)]

    def decode(self, ids: Iterable[int]) -> str:
        """Returns readable text; label tokens become `<Label>`, `</Label>`; pad and EOS vanish."""
        text, run = [], []
        for i in map(int, ids):
            if i < self.num_pieces:
                run.append(i)
            else:
                text += [self._pieces.decode(run), self.piece_text(i)]
                run = []
        return "".join([*text, self._pieces.decode(run)])

    def piece_text(self, i: int) -> str:
        """Returns the text of one id, as the vocabulary spells it."""
        if i < self.num_pieces:
            return self._pieces.id_to_piece(int(i))
        label, closes = divmod(int(i) - self.num_pieces, 2)
        if label >= len(self.labels):
            raise IndexError(f"id {i} is outside the vocabulary of {self.size}")
        return f"</{self.labels[label]}>" if closes else f"<{self.labels[label]}>"

    def _index_of(self, label: str) -> int:
        try:
            return self._label_index[label]
        except KeyError:
            raise InputError(f"unknown label {label!r}; this vocabulary has {', '.join(self.labels)}") from None

    def _without_specials(self, ids: list[int]) -> list[int]:
        if self._special_as_text.keys().isdisjoint(ids):
            return ids
        return [j for i in ids for j in self._special_as_text.get(i, (i,))]


def train_vocabulary(texts: Iterable[str], output: str | os.PathLike, size: int) -> Path:
    """Trains a SentencePiece unigram vocabulary of mT5's conventions and writes it to `output`.

    `size` counts pieces, the 256 bytes of byte fallback and the 100 sentinels included. The same texts give the same
    file.
    """
    output = Path(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = output.with_name(output.name + ".part")
    with temporary.open("wb") as file:
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(texts),
                model_writer=file,
                vocab_size=size,
                model_type="unigram",
                character_coverage=0.9999,
                byte_fallback=True,
                normalization_rule_name="nmt_nfkc",
                pad_id=0,
                eos_id=1,
                unk_id=2,
                bos_id=-1,
                # Control symbols never match text, user-defined ones would.
                control_symbols=[f"<extra_id_{i}>" for i in range(NUM_SENTINELS)],
                input_sentence_size=1_000_000,
                shuffle_input_sentence=False,
                num_threads=8,  # fixed: the sums of its EM depend on the number of threads
                minloglevel=2,
            )
        except RuntimeError as error:
            temporary.unlink(missing_ok=True)
            raise InputError(
                f"SentencePiece cannot make {size} pieces of this text; give a smaller --size or more text ({error})"
            ) from error
    temporary.replace(output)
    return output
