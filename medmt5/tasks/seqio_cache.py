"""Caches for upstream SeqIO and T5X (`use_cached=True`), in the layout of `seqio_cache_tasks`, without apache-beam.

A folder a task holds, of each split, examples as TFRecord, `info.<split>.json` and `stats.<split>.json`, and a file
COMPLETED, in which stands what the cache was made of. `seqio_cache_tasks` shuffles; here examples keep their order, so
that span corruption of the cache is that of our loader.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import seqio
import tensorflow as tf

from medmt5.mixtures import get_mixture_or_task
from medmt5.progress import progress_bar
from medmt5.tasks.caching import cacheable_examples, content_facts, splits_there


def write_caches(name: str, directory: Path) -> None:
    """Writes below `directory` the caches of a mixture's tasks, or of one task, that are missing or stale.

    A split whose raw files are not there, as a test that is held back, is left out.

    SeqIO finds them after `seqio.add_global_cache_dirs([directory])`, T5X with `--seqio_additional_cache_dirs`.
    """
    for task in seqio.get_subtasks(get_mixture_or_task(name)):
        folder = directory / seqio.get_task_dir_from_name(task.name)
        completed = folder / "COMPLETED"
        splits = splits_there(task)
        facts = [content_facts(task, split) for split in splits]
        content = json.dumps([task.output_features["targets"].vocabulary.tokenizer.sha256, facts])
        if completed.is_file() and completed.read_text(encoding="utf-8") == content:
            continue
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for split in splits:
            _write_split(task, split, folder)
        completed.write_text(content, encoding="utf-8")


def _write_split(task: seqio.Task, split: str, folder: Path) -> None:
    dataset = task.preprocess_precache(task.source.get_dataset(split=split, shuffle=False))
    specs = dataset.element_spec
    counts: Counter[str] = Counter(examples=0)
    with (
        tf.io.TFRecordWriter(f"{seqio.get_cached_tfrecord_prefix(folder, split)}-00000-of-00001") as writer,
        progress_bar(f"{task.name} {split}", task.source.num_input_examples(split)) as advance,
    ):
        for example in cacheable_examples(dataset):
            tensors = {name: tf.constant(value, specs[name].dtype) for name, value in example.items()}
            writer.write(seqio.dict_to_tfexample(tensors).SerializeToString())
            counts["examples"] += 1
            for feature in sorted(task.output_features.keys() & example.keys()):
                vocabulary = task.output_features[feature].vocabulary
                tokens = sum(int(i) not in (vocabulary.pad_id, vocabulary.eos_id) for i in example[feature])
                counts[f"{feature}_tokens"] += tokens
                counts[f"{feature}_max_tokens"] = max(counts[f"{feature}_max_tokens"], tokens)
            advance(1)
    info: dict[str, Any] = {
        "num_shards": 1,
        "features": {name: {"shape": spec.shape.as_list(), "dtype": spec.dtype.name} for name, spec in specs.items()},
        "seqio_version": seqio.__version__,
    }
    for path, content in (
        (seqio.get_cached_info_path(folder, split), info),
        (seqio.get_cached_stats_path(folder, split), dict(counts)),
    ):
        Path(path).write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
