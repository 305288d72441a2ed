"""Preprocessors by themselves, on literal rows."""

import itertools

import numpy as np
import pytest
import seqio
import tensorflow as tf

from medmt5.preprocessing.sequence_labelling import encode_examples
from medmt5.preprocessing.span_corruption import corrupt_spans
from medmt5.tasks.vocabulary import VOCABULARY
from medmt5.tokens.span_corruption import restore

FEATURES = {name: seqio.Feature(VOCABULARY) for name in ("inputs", "targets")}


@pytest.fixture(autouse=True)
def vocabulary(tokenizer, monkeypatch):
    monkeypatch.setenv("MEDMT5_VOCABULARY", str(tokenizer.model_file))


def rows(words, tags):
    return tf.data.Dataset.from_tensors({"words": tf.constant(words, tf.string), "tags": tf.constant(tags, tf.string)})


def test_the_prompt_names_the_labels_in_their_order_whatever_the_tags(tokenizer):
    [row] = encode_examples(rows(["no"], ["O"]), FEATURES, labels=("Drug", "Disease")).as_numpy_iterator()
    assert row["inputs"][:2].tolist() == [tokenizer.open_id("Disease"), tokenizer.open_id("Drug")]


def test_an_empty_sentence_and_words_like_tags_survive(tokenizer):
    [row] = encode_examples(rows([], []), FEATURES, labels=("Disease",)).as_numpy_iterator()
    assert row["inputs"].tolist() == [tokenizer.open_id("Disease"), 1]
    assert row["targets"].tolist() == [1]
    [row] = encode_examples(rows(["<Disease>", "</s>"], ["O", "O"]), FEATURES, labels=()).as_numpy_iterator()
    assert (row["targets"] < tokenizer.num_pieces).all()
    assert row["targets"].tolist().count(1) == 1


def documents(lengths):
    starts = np.cumsum([200, *lengths])
    return tf.data.Dataset.from_generator(
        lambda: (
            {"number": number, "targets": np.arange(start, start + length, dtype=np.int32)}
            for number, (start, length) in enumerate(zip(starts, lengths, strict=False))
        ),
        output_signature={"number": tf.TensorSpec([], tf.int64), "targets": tf.TensorSpec([None], tf.int32)},
    )


def corrupted(dataset, tokenizer, lengths):
    dataset = corrupt_spans(dataset, lengths, FEATURES, task="text", steps_before_cache=2)
    return [restore(c["inputs"], c["targets"], tokenizer.sentinel_ids, 1).tolist() for c in dataset.as_numpy_iterator()]


@pytest.mark.parametrize(
    ("lengths", "chunks"),
    [
        ([5, 0, 30, 1, 4], [17, 17, 6]),
        ([0, 34, 0], [17, 17]),
        ([17, 17, 1], [17, 17, 1]),
        ([0, 2], [2]),
        ([200], [17] * 11 + [13]),
        ([0, 0], []),
    ],
)
@pytest.mark.parametrize("epochs", [1, 3])
def test_chunks_cross_documents_but_not_epochs(tokenizer, lengths, chunks, epochs):
    texts = corrupted(documents(lengths).repeat(epochs), tokenizer, {"inputs": 16, "targets": 8})
    assert [len(text) for text in texts] == chunks * epochs
    assert list(itertools.chain(*texts)) == list(range(200, 200 + sum(lengths))) * epochs


def test_span_corruption_needs_to_know_the_length(tokenizer):
    with pytest.raises(ValueError, match="needs sequence_length"):
        corrupted(documents([3]), tokenizer, None)


def test_the_vocabulary_agrees_with_its_tokenizer(tokenizer):
    text = "nephritis de 3 día <extra_id_0> ñ"
    ids = VOCABULARY.encode(text)
    assert ids == tokenizer.encode(text) == VOCABULARY.encode_tf(tf.constant(text)).numpy().tolist()
    assert VOCABULARY.vocab_size == tokenizer.size
    assert VOCABULARY.decode(ids) == tokenizer.decode(ids)
    batch = tf.constant([ids, ids])
    assert [line.decode() for line in VOCABULARY.decode_tf(batch).numpy()] == [tokenizer.decode(ids)] * 2
