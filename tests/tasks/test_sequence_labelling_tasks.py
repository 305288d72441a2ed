"""Sequence-labelling tasks yield, through SeqIO itself, the tagged text that annotation defines."""

import itertools

import numpy as np
import pytest
import seqio

from medmt5 import tasks  # noqa: F401  registers
from medmt5.annotation.spans import tags_to_spans
from medmt5.annotation.tagged_text import parse_target
from medmt5.datasets.declarations import DATASETS, VARIANTS
from medmt5.errors import InputError

LENGTHS = {"inputs": 64, "targets": 64}


def examples(name, split="train", **options):
    task = seqio.get_mixture_or_task(name)
    return list(task.get_dataset(LENGTHS, split, shuffle=False, **options).as_numpy_iterator())


def test_every_declaration_and_variant_has_a_task_a_language():
    names = {f"{dataset.name}.{lang}" for dataset in (*DATASETS, *VARIANTS) for lang in dataset.languages}
    assert names <= set(seqio.TaskRegistry.names())


def test_inputs_are_prompt_and_words_targets_parse_to_the_tags(environment, tokenizer):
    first, second, third = examples("sample_diseases.es")
    words = [word.decode() for word in first["words"]]
    pieces = tokenizer.encode_words(words)
    assert first["inputs"].tolist() == [tokenizer.open_id("Disease"), *itertools.chain(*pieces), 1]
    spans = parse_target(first["targets"].tolist(), pieces, tokenizer)
    assert spans == tags_to_spans([tag.decode() for tag in first["tags"]]) == [(3, 4, "Disease")]
    assert first["inputs_pretokenized"].decode() == "<Disease> El niño tiene asma grave ."
    assert first["targets_pretokenized"].decode() == "El niño tiene<Disease>asma</Disease>grave ."
    assert second["targets_pretokenized"].decode() == "Sin fiebre hoy ."
    assert [example["id"].decode() for example in (first, second, third)] == ["train-1", "train-2", "train-3"]
    assert first["inputs"].dtype == np.int32


def test_an_encdec_model_of_seqio_can_be_fed(environment):
    converter = seqio.EncDecFeatureConverter(pack=False)
    dataset = seqio.get_dataset("sample_diseases.en", LENGTHS, converter, "test", shuffle=False)
    batch = next(dataset.as_numpy_iterator())
    assert {"encoder_input_tokens", "decoder_target_tokens", "decoder_loss_weights"} <= batch.keys()


def test_a_vocabulary_that_is_not_set_is_an_input_error(environment, monkeypatch):
    monkeypatch.delenv("MEDMT5_VOCABULARY")
    with pytest.raises(InputError, match="set MEDMT5_VOCABULARY"):
        examples("sample_diseases.en")
