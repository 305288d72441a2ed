"""Labelled sentences to inputs and targets: tagged text, made of ids so that no word can be mistaken for a tag."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from medmt5.annotation.spans import tags_to_spans
from medmt5.annotation.tagged_text import encode_input, encode_target, render


def encode_examples(
    dataset: tf.data.Dataset, output_features: Mapping[str, seqio.Feature], labels: Sequence[str]
) -> tf.data.Dataset:
    """Adds "inputs" and "targets" int32, both ending with EOS, and their readable forms "…_pretokenized".

    "spans" becomes three features, for SeqIO's caches hold no nested ones; `unflatten_spans` undoes it.

    Args:
      labels: the label prompt. It is put in front of the words of every example.
    """
    tokenizer = output_features["targets"].vocabulary.tokenizer
    prompt = "".join(f"<{label}>" for label in labels)

    def encode(words: np.ndarray, tags: np.ndarray) -> tuple[np.ndarray, np.ndarray, bytes, bytes]:
        texts = [word.decode("utf-8") for word in words]
        spans = tags_to_spans([tag.decode("utf-8") for tag in tags])
        return (
            np.array(encode_input(texts, labels, tokenizer), np.int32),
            np.array(encode_target(texts, spans, tokenizer), np.int32),
            f"{prompt} {' '.join(texts)}".encode(),
            render(texts, spans).encode(),
        )

    @seqio.map_over_dataset
    def add_features(example: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        types = (tf.int32, tf.int32, tf.string, tf.string)
        inputs, targets, *readable = tf.numpy_function(encode, [example["words"], example["tags"]], types)
        flat = {name: value for name, value in example.items() if name != "spans"}
        flat |= {f"spans_{name}": value for name, value in example.get("spans", {}).items()}
        return flat | {
            "inputs": tf.ensure_shape(inputs, [None]),
            "targets": tf.ensure_shape(targets, [None]),
            "inputs_pretokenized": tf.ensure_shape(readable[0], []),
            "targets_pretokenized": tf.ensure_shape(readable[1], []),
        }

    return add_features(dataset)


def unflatten_spans(example: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the example with the nested "spans" that it had before `encode_examples`."""
    spans = {name: example[f"spans_{name}"] for name in ("start", "end", "label")}
    return {name: value for name, value in example.items() if not name.startswith("spans_")} | {"spans": spans}
