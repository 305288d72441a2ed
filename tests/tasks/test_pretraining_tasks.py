"""Pre-training tasks corrupt, through SeqIO itself, all of the text and nothing else."""

import itertools

import seqio

from medmt5 import languages, tasks  # noqa: F401  registers
from medmt5.tokens.span_corruption import raw_length, restore

LENGTHS = {"inputs": 48, "targets": 20}


def chunks(environment, **options):
    task = seqio.get_mixture_or_task("medical_corpus.es")
    return list(task.get_dataset(LENGTHS, "train", shuffle=False, **options).as_numpy_iterator())


def test_every_language_has_a_task():
    assert {f"medical_corpus.{lang}" for lang in languages.codes()} <= set(seqio.TaskRegistry.names())


def test_inputs_and_targets_give_the_corpus_back_in_full_chunks(environment, tokenizer):
    restored = [restore(c["inputs"], c["targets"], tokenizer.sentinel_ids, 1).tolist() for c in chunks(environment)]
    source = seqio.get_mixture_or_task("medical_corpus.es").source.get_dataset("train", shuffle=False)
    expected = [tokenizer.encode(document["text"].decode()) for document in source.as_numpy_iterator()]
    assert list(itertools.chain(*restored)) == list(itertools.chain(*expected))
    assert {len(text) for text in restored[:-1]} == {raw_length(LENGTHS["inputs"])[0]}


def test_the_seed_alone_decides_and_chunks_differ_in_their_noise(environment):
    first, again, other = (chunks(environment, seed=seed) for seed in (1, 1, 2))
    as_lists = [[chunk["inputs"].tolist() for chunk in run] for run in (first, again, other)]
    assert as_lists[0] == as_lists[1] != as_lists[2]
    positions = [tuple(i for i, token in enumerate(inputs) if token in range(103)) for inputs in as_lists[0]]
    assert len(set(positions)) > len(positions) / 2


def test_no_example_is_longer_than_asked(environment):
    assert all(len(c["inputs"]) <= 48 and len(c["targets"]) <= 20 for c in chunks(environment))
