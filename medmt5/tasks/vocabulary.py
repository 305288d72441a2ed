"""The project's tokenizer as a SeqIO vocabulary; $MEDMT5_VOCABULARY is looked up when ids are asked for."""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import lru_cache

import numpy as np
import seqio
import tensorflow as tf

from medmt5.tokenizer import ENVIRONMENT_VARIABLE, Tokenizer


class LabelVocabulary(seqio.Vocabulary):
    """SentencePiece and label tokens. `tokenizer` is what our own preprocessors use; SeqIO's use the rest."""

    @property
    def tokenizer(self) -> Tokenizer:
        return _open(os.environ.get(ENVIRONMENT_VARIABLE))

    @property
    def eos_id(self) -> int:
        return Tokenizer.eos_id

    @property
    def unk_id(self) -> int:
        return Tokenizer.unk_id

    @property
    def _base_vocab_size(self) -> int:
        return self.tokenizer.size

    def _encode(self, s: str) -> list[int]:
        return self.tokenizer.encode(s)

    def _decode(self, ids: Iterable[int]) -> str:
        return self.tokenizer.decode(ids)

    def _encode_tf(self, s: tf.Tensor) -> tf.Tensor:
        tokenizer = self.tokenizer  # found now, so that a missing file is told here and not inside TensorFlow

        def encode(text: bytes | np.ndarray) -> np.ndarray:
            # TensorFlow gives bytes within a tf.data pipeline, an array of no dimensions outside.
            utf8: bytes = text.item() if isinstance(text, np.ndarray) else text
            return np.array(tokenizer.encode(utf8.decode("utf-8")), np.int32)

        return tf.ensure_shape(tf.numpy_function(encode, [s], tf.int32), [None])

    def _decode_tf(self, ids: tf.Tensor) -> tf.Tensor:
        def decode(ids: np.ndarray) -> np.ndarray:
            texts = [self.tokenizer.decode(row).encode() for row in ids.reshape(-1, ids.shape[-1])]
            return np.array(texts, object).reshape(ids.shape[:-1])

        return tf.numpy_function(decode, [ids], tf.string)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LabelVocabulary)

    __hash__ = object.__hash__


@lru_cache(maxsize=1)
def _open(model_file: str | None) -> Tokenizer:
    return Tokenizer.default()


VOCABULARY = LabelVocabulary()
