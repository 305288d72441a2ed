"""The text of a corpus as a SeqIO source, read from the shards that `medmt5 corpus` wrote.

There is no TFDS copy: the shards are clean, compressed and listed with their sha256 in a manifest already, and a second
copy of tens of gigabytes would add nothing to that.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import seqio
import tensorflow as tf

from medmt5.corpus.store import fetch_corpus, read_corpus, read_manifest
from medmt5.errors import InputError

CORPUS_DIR = "MEDMT5_CORPUS_DIR"
DEV_SHARE = 100
"""One document in so many is held out as "dev", chosen by its id, so that it stays there when the corpus grows."""


fetch_once = cache(fetch_corpus)


class CorpusSource(seqio.DataSource):
    """The documents of one language, {"number", "id", "text"}, in the order of the corpus: source after source.

    Numbers count the documents of the split from 0, so that a step that sees them again knows where an epoch ends.
    """

    def __init__(self, lang: str):
        super().__init__(splits=("train", "dev"))
        self.lang = lang

    @property
    def supports_arbitrary_sharding(self) -> bool:
        return False

    def list_shards(self, split: str) -> list[str]:
        return [split]

    def num_input_examples(self, split: str) -> int:
        """Returns about how many documents there are; the exact number is known once they are read."""
        documents = self._manifest()["documents"]
        dev = documents // DEV_SHARE
        return dev if split == "dev" else documents - dev

    def num_words(self) -> int:
        return self._manifest()["words"]

    def get_dataset(self, split="train", shuffle=True, seed=None, shard_info=None, **unused) -> tf.data.Dataset:
        if shard_info and shard_info.num_shards > 1:
            raise ValueError("a language of the corpus is read as one shard")
        self._manifest()  # what is wrong with the corpus is told here, not inside TensorFlow
        types = {"number": tf.int64, "id": tf.string, "text": tf.string}
        spec = {name: tf.TensorSpec((), dtype) for name, dtype in types.items()}
        dataset = tf.data.Dataset.from_generator(lambda: self._documents(split), output_signature=spec)
        return dataset.shuffle(seqio.SHUFFLE_BUFFER_SIZE, seed=seed) if shuffle else dataset

    def digest(self) -> str:
        """Returns a digest of what the manifest says of the language's shards."""
        shards = [
            shard for shard in read_manifest(_corpus_dir())["shards"] if shard["file"].startswith(f"{self.lang}/")
        ]
        return hashlib.sha256(json.dumps([DEV_SHARE, shards], sort_keys=True).encode()).hexdigest()

    def _documents(self, split: str) -> Iterator[dict[str, Any]]:
        number = 0
        for document in read_corpus(_corpus_dir(), self.lang):
            if (zlib.crc32(document["id"].encode()) % DEV_SHARE == 0) == (split == "dev"):
                yield {"number": number, "id": document["id"], "text": document["text"]}
                number += 1

    def _manifest(self) -> dict[str, Any]:
        languages = read_manifest(_corpus_dir())["languages"]
        if self.lang not in languages:
            raise InputError(
                f"the corpus in {_corpus_dir()} has {', '.join(languages)}, not {self.lang}; build it with "
                f"medmt5 corpus --languages {self.lang},…, or use the tasks medical_corpus.<language> of those it has"
            )
        return languages[self.lang]


def _corpus_dir() -> Path:
    place = os.environ.get(CORPUS_DIR)
    if not place:
        raise InputError(f"set {CORPUS_DIR} to the folder that `medmt5 corpus` wrote")
    return fetch_once(place)
