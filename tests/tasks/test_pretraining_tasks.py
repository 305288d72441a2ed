"""Pre-training tasks corrupt, through SeqIO itself, all of the text and nothing else, and as our loader does."""

import itertools

import numpy as np
import pytest
import seqio

from medmt5 import languages, tasks  # noqa: F401  registers
from medmt5.tasks.caching import build_mixture
from medmt5.tokens import loader
from medmt5.tokens.span_corruption import raw_length, restore
from medmt5.tokens.store import TokenStore

LENGTHS = {"inputs": 48, "targets": 20}
NAME = "medical_corpus.es"


def chunks(environment, **options):
    task = seqio.get_mixture_or_task(NAME)
    options = {"split": "train", "shuffle": False} | options
    return list(task.get_dataset(LENGTHS, **options).as_numpy_iterator())


def as_lists(examples):
    return [{name: example[name].tolist() for name in ("inputs", "targets")} for example in examples]


def test_every_language_has_a_task():
    assert {f"medical_corpus.{lang}" for lang in languages.codes()} <= set(seqio.TaskRegistry.names())


@pytest.mark.parametrize("shuffle", [False, True])
def test_inputs_and_targets_give_the_corpus_back_in_full_chunks(environment, tokenizer, shuffle):
    texts = [
        restore(c["inputs"], c["targets"], tokenizer.sentinel_ids, 1).tolist()
        for c in chunks(environment, shuffle=shuffle)
    ]
    source = seqio.get_mixture_or_task(NAME).source.get_dataset("train", shuffle=False)
    expected = [tokenizer.encode(document["text"].decode()) for document in source.as_numpy_iterator()]
    found, expected = list(itertools.chain(*texts)), list(itertools.chain(*expected))
    assert (sorted(found) == sorted(expected)) if shuffle else (found == expected)
    raw, _ = raw_length(LENGTHS["inputs"])
    assert sorted(map(len, texts), reverse=True) == [raw] * (len(expected) // raw) + [len(expected) % raw]


@pytest.fixture
def store(environment, tokenizer):
    build_mixture(NAME, environment / "tokens", tokenizer)
    return TokenStore(environment / "tokens" / NAME / "train")


@pytest.mark.parametrize("seed", [0, 5])
def test_every_chunk_of_every_epoch_is_the_loaders(environment, tokenizer, store, seed):
    """Three epochs, in SeqIO's order: example by example what the loader makes of the same (seed, epoch, chunk)."""
    through_seqio = as_lists(chunks(environment, seed=seed, num_epochs=3))
    count = len(through_seqio) // 3
    shape = {"feature_lengths": LENGTHS, "batch_size": count, "seed": seed}
    batches = loader.make_batches([(store, 1.0)], sentinel_ids=tokenizer.sentinel_ids, **shape)
    shuffle = loader._open_tasks([(store, 1.0)], LENGTHS, seed, pack=False)[0].shuffle
    for epoch in range(3):
        epochs, numbers = shuffle(np.arange(epoch * count, (epoch + 1) * count))
        assert set(epochs) == {epoch}
        batch = batches[epoch]
        for row, number in enumerate(numbers):
            inputs, targets = batch["encoder_input_tokens"][row], batch["decoder_target_tokens"][row]
            expected = {"inputs": inputs[inputs != 0].tolist(), "targets": targets[targets != 0].tolist()}
            assert through_seqio[epoch * count + number] == expected


def test_the_seed_alone_decides_and_chunks_differ_in_their_noise(environment):
    first, again, other = (as_lists(chunks(environment, seed=seed)) for seed in (1, 1, 2))
    assert first == again != other
    positions = [tuple(i for i, token in enumerate(c["inputs"]) if token in range(103)) for c in first]
    assert len(set(positions)) > len(positions) / 2
    assert as_lists(chunks(environment)) != as_lists(chunks(environment)), "without a seed the noise is new each time"


def test_a_host_that_reads_every_other_document_knows_its_epochs_too(environment, tokenizer):
    shards = [seqio.ShardInfo(index, 2) for index in (0, 1)]
    parts = [chunks(environment, seed=3, num_epochs=2, shard_info=shard) for shard in shards]
    for part in parts:
        texts = [restore(c["inputs"], c["targets"], tokenizer.sentinel_ids, 1).tolist() for c in part]
        half = len(texts) // 2
        assert texts[:half] == texts[half:]
        assert as_lists(part[:half]) != as_lists(part[half:])


def test_no_example_is_longer_than_asked(environment):
    assert all(len(c["inputs"]) <= 48 and len(c["targets"]) <= 20 for c in chunks(environment))
