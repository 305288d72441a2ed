"""Span corruption as a SeqIO preprocessor, so that pre-training tasks also run under upstream T5X.

Documents that come in their order (`shuffle=False`) give the examples of `medmt5.tokens.loader`: the chunk of a number
in an epoch, for a seed, is the same ids. The loader shuffles chunks; SeqIO, asked to shuffle, shuffles documents first,
so that other chunks are cut, of the same text and the same lengths.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping

import numpy as np
import seqio
import tensorflow as tf

from medmt5.tokens import span_corruption
from medmt5.tokens.random_numbers import make_keys

SEED_STEP = 42
"""SeqIO adds so much to the seed for each step before the cache (`seqio.Task.preprocess_postcache`)."""


def corrupt_spans(
    dataset: tf.data.Dataset,
    sequence_length: Mapping[str, int] | None,
    output_features: Mapping[str, seqio.Feature],
    task: str,
    steps_before_cache: int,
) -> tf.data.Dataset:
    """Returns {"inputs", "targets"} int32, both ending with EOS, for documents {"number", "targets": ids without EOS}.

    Documents are put one after the other and cut into chunks of equal length. Where the first document comes again an
    epoch ends, and with it its last chunk, which may be shorter.

    Args:
      task, steps_before_cache: its name, which is part of what decides the noise, and how many steps make documents.
    """
    if sequence_length is None:
        raise ValueError("span corruption needs sequence_length: the length of inputs decides that of the text")
    raw, _ = span_corruption.raw_length(sequence_length["inputs"])
    tokenizer = output_features["targets"].vocabulary.tokenizer
    sentinel_ids, eos_id = tokenizer.sentinel_ids, tokenizer.eos_id
    noise_seed = span_corruption.noise_seed(_seed_of_pipeline(steps_before_cache), task)

    def corrupt(text: np.ndarray, epoch: np.ndarray, number: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        keys = make_keys(noise_seed, epoch[None], number[None])
        inputs, targets = span_corruption.corrupt(text[None], keys, sentinel_ids, eos_id)
        return inputs[0], targets[0]

    @seqio.map_over_dataset
    def corrupt_chunk(chunk: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        arguments = [chunk["text"], chunk["epoch"], chunk["number"]]
        features = tf.numpy_function(corrupt, arguments, (tf.int32, tf.int32), stateful=False)
        return {name: tf.ensure_shape(ids, [None]) for name, ids in zip(("inputs", "targets"), features, strict=True)}

    return corrupt_chunk(_cut(dataset, raw))


def _seed_of_pipeline(steps_before_cache: int) -> int:
    """Returns the seed given to `get_dataset`, a random one if none was; SeqIO tells preprocessors in no other way."""
    seed = seqio.utils._NEXT_MAP_SEED
    return secrets.randbits(31) if seed is None else seed - SEED_STEP * steps_before_cache


def _cut(documents: tf.data.Dataset, raw: int) -> tf.data.Dataset:
    """Returns chunks {"text": at most `raw` ids, "epoch", "number": in its epoch} of the documents."""
    zero = tf.zeros((), tf.int64)
    no_text = tf.zeros((0,), tf.int32)
    documents = documents.map(lambda document: {name: document[name] for name in ("number", "targets")})
    end = tf.data.Dataset.from_tensors({"number": zero - 1, "targets": no_text})

    def add(state, document):
        """Takes the text that is left over and a document; gives the chunks that are full, or that end an epoch."""
        rest, epoch, number, first_document = state
        ends = (document["number"] == first_document) | (document["number"] < 0)
        last = rest[: tf.where(ends, tf.size(rest), 0)]
        chunks = {"last": last, "last_epoch": epoch, "last_number": number}
        epoch, number = epoch + tf.cast(ends, tf.int64), tf.where(ends, zero, number)
        text = tf.concat([rest[tf.size(last) :], document["targets"]], 0)
        full = tf.size(text) // raw
        chunks |= {"texts": tf.reshape(text[: full * raw], [-1, raw]), "epoch": epoch, "number": number}
        first_document = tf.where(first_document < 0, document["number"], first_document)
        return (text[full * raw :], epoch, number + tf.cast(full, tf.int64), first_document), chunks

    def separate(chunks) -> tf.data.Dataset:
        last = {"text": chunks["last"], "epoch": chunks["last_epoch"], "number": chunks["last_number"]}
        full = tf.data.Dataset.from_tensor_slices(chunks["texts"]).enumerate(chunks["number"])
        return (
            tf.data.Dataset.from_tensors(last)
            .take(tf.cast(tf.size(chunks["last"]) > 0, tf.int64))
            .concatenate(full.map(lambda number, text: {"text": text, "epoch": chunks["epoch"], "number": number}))
        )

    return documents.concatenate(end).scan((no_text, zero, zero, zero - 1), add).flat_map(separate)
