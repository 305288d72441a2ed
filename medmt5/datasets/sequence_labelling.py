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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import seqio
import tensorflow as tf
import tensorflow_datasets as tfds
from absl import logging
from rich.console import Console

from medmt5.annotation.example import LabelledExample
from medmt5.annotation.formats.bioc import read_bioc
from medmt5.annotation.formats.brat import read_brat
from medmt5.annotation.formats.conll import read_conll
from medmt5.annotation.formats.inline_tags import read_inline_tags
from medmt5.annotation.formats.pubtator import read_pubtator
from medmt5.annotation.formats.xmi import read_xmi
from medmt5.annotation.repairs import Repairs
from medmt5.annotation.spans import Span
from medmt5.datasets.declarations import LabelledDataset
from medmt5.errors import InputError

DATA_DIR = "MEDMT5_DATA_DIR"
READERS = {
    "bioc": read_bioc,
    "brat": read_brat,
    "conll": read_conll,
    "inline_tags": read_inline_tags,
    "pubtator": read_pubtator,
    "xmi": read_xmi,
}


@dataclasses.dataclass(eq=False)
class RawFiles(tfds.core.BuilderConfig):
    """One declaration in one language, with the raw files found for it."""

    declaration: LabelledDataset | None = None
    lang: str = ""
    paths: dict[str, Path] = dataclasses.field(default_factory=dict)  # of each split


class SequenceLabelling(tfds.core.GeneratorBasedBuilder):
    """Sentences with labelled spans, in the order of the files. `LabelledSource` opens it: it finds the raw files."""

    VERSION = tfds.core.Version("1.1.0")  # of the features; what an older one prepared is made again
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
        return {split: self._generate_examples(path) for split, path in self.builder_config.paths.items()}

    def _generate_examples(self, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
        config = self.builder_config
        examples = READERS[config.declaration.format](path, config.lang, config.declaration.label_map, self.repairs)
        number = -1
        for number, example in enumerate(examples):
            yield number, example.to_json() | {"spans": [span._asdict() for span in example.spans]}
        if number < 0:
            raise InputError(f"{path} holds no sentences; put the data there")
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
        super().__init__(splits=tuple(declaration.files))
        self.declaration, self.lang = declaration, lang

    @property
    def supports_arbitrary_sharding(self) -> bool:
        return False

    def list_shards(self, split: str) -> list[str]:
        return [split]

    def num_input_examples(self, split: str) -> int:
        return self._builder().info.splits[split].num_examples

    def get_dataset(self, split="train", shuffle=True, seed=None, shard_info=None, **unused) -> tf.data.Dataset:
        if shard_info and shard_info.num_shards > 1:
            raise ValueError("labelled data sets are one shard")
        dataset = self._builder().as_dataset(split=split)
        return dataset.shuffle(self.num_input_examples(split), seed=seed) if shuffle else dataset

    def digest(self) -> str:
        """Returns a digest of all that decides the examples: the declaration, the features and the raw files."""
        content = hashlib.sha256(repr((self.declaration, self.lang, str(SequenceLabelling.VERSION))).encode())
        for path in self._paths().values():
            for file in sorted(filter(Path.is_file, path.iterdir())) if path.is_dir() else [path]:
                with file.open("rb") as stream:
                    content.update(f"{file.name} {hashlib.file_digest(stream, 'sha256').hexdigest()}\n".encode())
        return content.hexdigest()

    def _builder(self) -> SequenceLabelling:
        """Returns the data set, read from the raw files if they have not been read as they are."""
        config = RawFiles(
            name=f"{self.declaration.name}.{self.lang}.{self.digest()[:16]}",
            version=self.declaration.version,
            declaration=self.declaration,
            lang=self.lang,
            paths=self._paths(),
        )
        with _quiet_tfds():
            builder = SequenceLabelling(config=config, data_dir=os.environ.get("TFDS_DATA_DIR"))
            prepared = builder.is_prepared()
            if not prepared:
                builder.download_and_prepare()
        if not prepared and builder.repairs.counts:
            Console(stderr=True).print(f"{self.declaration.name}.{self.lang}", builder.repairs)
        return builder

    def _paths(self) -> dict[str, Path]:
        folder = os.environ.get(DATA_DIR)
        if not folder:
            raise InputError(f"set {DATA_DIR} to the folder of the raw data sets; {self.declaration.name} is below it")
        paths = {split: Path(folder) / self.declaration.path(split, self.lang) for split in self.splits}
        for path in paths.values():
            if not path.exists():
                raise InputError(
                    f"{path} is missing, a part of {self.declaration.name} ({self.declaration.homepage}); "
                    f"put it there, or set {DATA_DIR} (now {folder}) to the folder that holds the data sets"
                )
        return paths


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
