"""Labelled sentences as a TFDS data set: one builder for all declarations, and the SeqIO source that opens it.

The raw files lie below $MEDMT5_DATA_DIR; what is made of them goes to $TFDS_DATA_DIR. A digest of the declaration and
the raw files is part of the name, so that changed files make a new copy and an old one is never used for them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import seqio
import tensorflow as tf
import tensorflow_datasets as tfds
from absl import logging
from rich.console import Console

from medmt5.annotation.example import LabelledExample
from medmt5.annotation.repairs import Repairs
from medmt5.annotation.spans import Span
from medmt5.datasets.declarations import LabelledDataset
from medmt5.datasets.raw_files import RawFiles, data_folder, require_files, where_to_put
from medmt5.datasets.reading import find_leaked, read_split, splits_there, tests_of
from medmt5.errors import InputError


@dataclasses.dataclass(eq=False)
class SetInLanguage(tfds.core.BuilderConfig):
    """One declaration in one language, with the raw files found for it below `folder`."""

    declaration: LabelledDataset | None = None
    lang: str = ""
    files: RawFiles | None = None
    folder: Path | None = None


class SequenceLabelling(tfds.core.GeneratorBasedBuilder):
    """Sentences with labelled spans, in the order of the files. `LabelledSource` opens it: it finds the raw files."""

    VERSION = tfds.core.Version("1.2.0")  # of the features; what an older one prepared is made again
    # Nothing is downloaded. To learn that from the code's folder, TFDS 4.9.10 needs a package it does not install.
    url_infos = None

    def _info(self) -> tfds.core.DatasetInfo:
        declaration = self.builder_config.declaration
        span = {"start": tf.int32, "end": tf.int32, "label": tfds.features.Text()}
        self.repairs = Repairs()
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"{declaration.name}: sentences with the labels {', '.join(declaration.labels)}.",
            features=tfds.features.FeaturesDict(
                {
                    "id": tfds.features.Text(),
                    "lang": tfds.features.Text(),
                    "words": tfds.features.Sequence(tfds.features.Text()),
                    "tags": tfds.features.Sequence(tfds.features.Text()),
                    "text": tfds.features.Text(),
                    "spans": tfds.features.Sequence(span),
                    "document": tfds.features.Text(),
                }
            ),
            homepage=declaration.homepage,
            citation=declaration.citation,
            license=declaration.licence,
            metadata=tfds.core.MetadataDict(),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager):
        config = self.builder_config
        leaked = find_leaked(config.declaration, config.lang, config.folder) if config.declaration.clean else {}
        self.info.metadata["removed"] = leaked
        return {
            split: self._generate_examples(split, leaked.get(split, {}))
            for split in splits_there(config.declaration, config.files)
        }

    def _generate_examples(self, split: str, leaked: Mapping[str, str]) -> Iterator[tuple[int, dict[str, Any]]]:
        config = self.builder_config
        number = -1
        for example in read_split(config.declaration, config.lang, config.files, split, self.repairs):
            if example.id not in leaked:
                number += 1
                yield number, example.to_json() | {"spans": [span._asdict() for span in example.spans]}
        if number < 0:
            place = config.files.paths.get(split) or config.files.paths["train"]
            raise InputError(f"{place} holds no sentences of {config.name}, {split}; put the data there")
        self.info.metadata["repairs"] = self.repairs.to_json()


def to_labelled_example(features: dict[str, Any]) -> LabelledExample:
    """Returns the example of the builder's features as numpy values."""

    def text(value: bytes) -> str:
        return value.decode("utf-8")

    spans = features["spans"]
    return LabelledExample(
        text(features["id"]),
        text(features["lang"]),
        tuple(map(text, features["words"])),
        tuple(map(text, features["tags"])),
        text(features["text"]),
        tuple(
            Span(int(start), int(end), text(label))
            for start, end, label in zip(spans["start"], spans["end"], spans["label"], strict=True)
        ),
        text(features["document"]),
    )


class LabelledSource(seqio.DataSource):
    """The sentences of a declaration in one language. Nothing is read before a split is asked for."""

    def __init__(self, declaration: LabelledDataset, lang: str):
        super().__init__(splits=declaration.splits)
        self.declaration, self.lang = declaration, lang

    @property
    def supports_arbitrary_sharding(self) -> bool:
        return False

    def list_shards(self, split: str) -> list[str]:
        return [split]

    def splits_there(self) -> tuple[str, ...]:
        """Returns the splits whose files are there: all, or all but the test."""
        return splits_there(self.declaration, self._files(data_folder()))

    def num_input_examples(self, split: str) -> int:
        return self._builder().info.splits[split].num_examples

    def get_dataset(self, split="train", shuffle=True, seed=None, shard_info=None, **unused) -> tf.data.Dataset:
        if shard_info and shard_info.num_shards > 1:
            raise ValueError("labelled data sets are one shard")
        if split not in self.splits_there():
            folder = data_folder()
            raise InputError(where_to_put(self.declaration, self.lang, split, self._files(folder).form, folder))
        dataset = self._builder().as_dataset(split=split)
        return dataset.shuffle(self.num_input_examples(split), seed=seed) if shuffle else dataset

    def digest(self) -> str:
        """Returns a digest of all that decides the examples: the declaration, the features and the raw files."""
        d, folder = self.declaration, data_folder()
        files = self._files(folder)
        tests = tests_of(d, self.lang, folder) if d.clean else []
        facts = [
            (d.name, d.version, self.lang, d.labels, sorted(d.label_map.items(), key=str), files.form.format),
            (d.dev_share, d.clean, d.documents, str(SequenceLabelling.VERSION)),
            (files.digest(), [(other.name, test.digest()) for other, test in tests]),
        ]
        return hashlib.sha256(repr(facts).encode()).hexdigest()

    def metadata(self) -> dict[str, Any]:
        """Returns what was done to the data: {"repairs": {kind: count}, "removed": {split: examples}}."""
        metadata = self._builder().info.metadata
        return {
            "repairs": {kind: repair["count"] for kind, repair in metadata.get("repairs", {}).items()},
            "removed": {split: len(ids) for split, ids in metadata.get("removed", {}).items()},
        }

    def _builder(self) -> SequenceLabelling:
        """Returns the data set, read from the raw files if they have not been read as they are."""
        folder = data_folder()
        config = SetInLanguage(
            name=f"{self.declaration.name}.{self.lang}.{self.digest()[:16]}",
            version=self.declaration.version,
            declaration=self.declaration,
            lang=self.lang,
            files=self._files(folder),
            folder=folder,
        )
        with _quiet_tfds():
            builder = SequenceLabelling(config=config, data_dir=os.environ.get("TFDS_DATA_DIR"))
            prepared = builder.is_prepared()
            if not prepared:
                builder.download_and_prepare()
        if not prepared and builder.repairs.counts:
            Console(stderr=True).print(f"{self.declaration.name}.{self.lang}", builder.repairs)
        return builder

    def _files(self, folder: Path) -> RawFiles:
        return require_files(self.declaration, self.lang, folder)


@contextlib.contextmanager
def _quiet_tfds() -> Iterator[None]:
    """TFDS warns of unlisted configurations, prints to standard output and draws bars, for what takes a second."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    tfds.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(verbosity)
