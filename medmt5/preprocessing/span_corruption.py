"""Span corruption as a SeqIO preprocessor, so that pre-training tasks also run under upstream T5X.

It makes the chunks that `medmt5.tokens.loader` makes and corrupts them by the same function; only the random numbers
differ.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import seqio
import tensorflow as tf

from medmt5.tokens import span_corruption
from medmt5.tokens.random_numbers import make_keys


def corrupt_spans(
    dataset: tf.data.Dataset,
    sequence_length: Mapping[str, int] | None,
    output_features: Mapping[str, seqio.Feature],
) -> tf.data.Dataset:
    """Returns {"inputs", "targets"} int32, both ending with EOS, for documents {"targets": int32 ids without EOS}.

    Documents are put one after the other and cut into chunks of equal length; the last one may be shorter.
    """
    if sequence_length is None:
        raise ValueError("span corruption needs sequence_length: the length of inputs decides that of the text")
    raw, _ = span_corruption.raw_length(sequence_length["inputs"])
    tokenizer = output_features["targets"].vocabulary.tokenizer
    sentinel_ids, eos_id = tokenizer.sentinel_ids, tokenizer.eos_id

    def corrupt(tokens: np.ndarray, seed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        keys = make_keys(0, seed[:1], seed[1:])  # SeqIO gives two numbers
        inputs, targets = span_corruption.corrupt(tokens[None], keys, sentinel_ids, eos_id)
        return inputs[0], targets[0]

    @seqio.map_over_dataset(num_seeds=1)
    def corrupt_chunk(tokens: tf.Tensor, seed: tf.Tensor) -> dict[str, tf.Tensor]:
        features = tf.numpy_function(corrupt, [tokens, seed], (tf.int32, tf.int32))
        return {name: tf.ensure_shape(ids, [None]) for name, ids in zip(("inputs", "targets"), features, strict=True)}

    chunks = dataset.flat_map(lambda document: tf.data.Dataset.from_tensor_slices(document["targets"])).batch(raw)
    return corrupt_chunk(chunks)
