"""Token stores of tasks and mixtures: runs a task's cacheable steps once and keeps what they yield.

A store that is there is kept if it would come out the same: same raw data, steps and vocabulary. Training then needs
neither SeqIO nor TensorFlow.
"""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import seqio
import tensorflow as tf

from medmt5.datasets.sequence_labelling import LabelledSource, to_labelled_example
from medmt5.errors import InputError
from medmt5.mixtures import get_mixture_or_task
from medmt5.preprocessing.sequence_labelling import unflatten_spans
from medmt5.progress import progress_bar
from medmt5.tokenizer import ENVIRONMENT_VARIABLE, Tokenizer
from medmt5.tokens.mixture import Mixture
from medmt5.tokens.store import StoreWriter, TokenStore

logger = logging.getLogger(__name__)


class StoredTask:
    """A task as rate functions see one that SeqIO has cached: its token stores tell the exact numbers."""

    def __init__(self, task: seqio.Task, root: Path):
        self._task = task
        self.cache_dir = str(root / task.name)

    def get_cached_stats(self, split: str = "train") -> dict[str, int]:
        """Returns "examples" and "<feature>_tokens", without EOS, as the stats files of SeqIO's caches."""
        store = TokenStore(Path(self.cache_dir) / split)
        eos = len(store) if store.manifest["objective"] == "pairs" else 0
        tokens = {f"{feature}_tokens": count - eos for feature, count in store.manifest["tokens"].items()}
        return {"examples": len(store)} | tokens

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task, name)


def build_mixture(name: str, root: Path, tokenizer: Tokenizer) -> Mixture:
    """Builds the stores of a mixture or task that are missing or stale, writes `<name>.mixture.json` and returns it.

    A rate that is a function gets a `StoredTask`. A task without a train split gets rate 0: it is for evaluation.
    """
    mixture = get_mixture_or_task(name)
    tasks = mixture.tasks if isinstance(mixture, seqio.Mixture) else [mixture]
    rates = mixture.rate_per_task_name if isinstance(mixture, seqio.Mixture) else {name: 1.0}
    members = []
    for task in tasks:
        splits_there(task)  # raises where files are missing: now, not after the stores of others were built for minutes
    for task in tasks:
        build_stores(task, root, tokenizer)
        rate = rates[task.name] if task.name in rates else mixture.get_rate(task)  # the latter: of a mixture within
        if "train" not in task.splits:
            rate = 0.0
        members.append((task.name, float(rate(StoredTask(task, root)) if callable(rate) else rate)))
    result = Mixture(name, tuple(members))
    result.write(root)
    return result


def build_stores(task: seqio.Task, root: Path, tokenizer: Tokenizer) -> None:
    """Builds the stores of a task's splits that are missing or stale.

    A split without examples has no store, unless it is "train", where that is an error; nor has a test whose files are
    not there, which is told.
    """
    in_use = task.output_features["targets"].vocabulary.tokenizer
    if (in_use.sha256, in_use.labels) != (tokenizer.sha256, tokenizer.labels):
        raise InputError(
            f"{ENVIRONMENT_VARIABLE} names {in_use.model_file}, another vocabulary than {tokenizer.model_file}; "
            "set it to that"
        )
    there = splits_there(task)
    for split in task.splits:
        directory = root / task.name / split
        if split not in there:
            logger.warning("%s has no %s: its files are not there; how to get them: medmt5 data", task.name, split)
            shutil.rmtree(directory, ignore_errors=True)  # of other files than those that are there now
        elif not _is_current(directory, content_facts(task, split), tokenizer):
            _build_store(task, split, directory, tokenizer)
    if "train" in task.splits and not (root / task.name / "train").is_dir():
        raise InputError(f"{task.name} has no examples to train on; look at the raw data, or leave the task out")


def splits_there(task: seqio.Task) -> tuple[str, ...]:
    """Returns the splits of a task whose raw files are there."""
    return task.source.splits_there() if isinstance(task.source, LabelledSource) else tuple(task.splits)


def content_facts(task: seqio.Task, split: str) -> dict[str, Any]:
    """Returns what decides the content of a store, beside the vocabulary."""
    steps = task.preprocessors[: task._cache_step_idx]
    return {
        "task": task.name,
        "split": split,
        "preprocessors": [seqio.utils.function_name(step) for step in steps],
        "source_digest": task.source.digest(),
    }


def _is_current(directory: Path, facts: dict[str, Any], tokenizer: Tokenizer) -> bool:
    try:
        store = TokenStore(directory)
        store.check_vocabulary(tokenizer)
    except InputError:
        return False
    return all(store.manifest[key] == value for key, value in facts.items())


def _build_store(task: seqio.Task, split: str, directory: Path, tokenizer: Tokenizer) -> None:
    dataset = task.preprocess_precache(task.source.get_dataset(split=split, shuffle=False))
    objective = "pairs" if "inputs" in dataset.element_spec else "span_corruption"
    labelled = "tags" in dataset.element_spec
    expected = task.source.num_input_examples(split)
    metadata = task.source.metadata() if isinstance(task.source, LabelledSource) else {}
    facts = content_facts(task, split)
    with (
        StoreWriter(directory, objective=objective, tokenizer=tokenizer, metadata=metadata, **facts) as writer,
        progress_bar(f"{task.name} {split}", expected) as advance,
    ):
        for number, features in enumerate(cacheable_examples(dataset)):
            writer.write(features, to_labelled_example(unflatten_spans(features)) if labelled else None)
            if number < expected:  # a corpus only knows about how many documents a split has
                advance(1)
    if not len(TokenStore(directory)):
        logger.info("%s has no examples in %s", task.name, split)
        shutil.rmtree(directory)


def cacheable_examples(dataset: tf.data.Dataset) -> Iterator[dict[str, Any]]:
    """Yields the examples as numpy values; an InputError from within TensorFlow, made text there, is one again."""
    try:
        yield from dataset.as_numpy_iterator()
    except tf.errors.OpError as error:
        if message := re.search(r"InputError: (.+)", error.message):
            raise InputError(message[1]) from error
        raise
