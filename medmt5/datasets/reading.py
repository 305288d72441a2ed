"""Reads the examples of a data set from its raw files: its parts, and the splits that tasks use, made of them.

No TensorFlow here: `medmt5 data check` reads through this module as the TFDS builder does.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from medmt5.annotation.example import LabelledExample
from medmt5.annotation.formats.bioc import read_bioc
from medmt5.annotation.formats.brat import read_brat
from medmt5.annotation.formats.conll import read_conll
from medmt5.annotation.formats.inline_tags import read_inline_tags
from medmt5.annotation.formats.pubtator import read_pubtator
from medmt5.annotation.formats.xmi import read_xmi
from medmt5.annotation.repairs import Repairs
from medmt5.datasets.declarations import LabelledDataset, find
from medmt5.datasets.leakage import find_leaks
from medmt5.datasets.raw_files import RawFiles, require_files, where_to_put
from medmt5.datasets.splits import is_dev
from medmt5.errors import InputError

READERS: dict[str, Callable[..., Iterator[LabelledExample]]] = {
    "bioc": read_bioc,
    "brat": read_brat,
    "conll": read_conll,
    "inline_tags": read_inline_tags,
    "pubtator": read_pubtator,
    "xmi": read_xmi,
}


def read_part(
    dataset: LabelledDataset, lang: str, files: RawFiles, part: str, repairs: Repairs
) -> Iterator[LabelledExample]:
    """Yields the examples of a part as its owners divide the set; `repairs` counts those of this part."""
    read = READERS[files.form.format]
    if files.listed:
        yield from _read_listed(read, dataset, lang, files, part, repairs)
        return
    examples = read(files.paths[part], lang, dataset.label_map, repairs)
    documents = dataset.documents.get((lang, part))
    yield from _name_documents(examples, documents, files.paths[part]) if documents else examples


def read_split(
    dataset: LabelledDataset, lang: str, files: RawFiles, split: str, repairs: Repairs
) -> Iterator[LabelledExample]:
    """Yields the examples of a split, what leaked not yet taken out; `repairs` counts each part's once."""
    if split in files.paths and not (split == "train" and dataset.dev_share):
        yield from read_part(dataset, lang, files, split, repairs)
        return
    # Dev and train come from one part; what is repaired in it is counted with train.
    counted = repairs if split == "train" else Repairs()
    for example in read_part(dataset, lang, files, "train", counted):
        if is_dev(example.document, dataset.dev_share) == (split == "dev"):
            yield example


def splits_there(dataset: LabelledDataset, files: RawFiles) -> tuple[str, ...]:
    """Returns the splits whose files are there."""
    return tuple(split for split in dataset.splits if split in files.paths or (split == "dev" and dataset.dev_share))


def tests_of(dataset: LabelledDataset, lang: str, folder: Path) -> list[tuple[LabelledDataset, RawFiles]]:
    """Returns the sets whose tests must not have leaked into this one, with their files; InputError if one has no test
    there.
    """
    tests = []
    for other in [*([dataset] if "test" in dataset.parts else []), *map(find, dataset.scored_with)]:
        files = require_files(other, lang, folder)
        if "test" not in files.paths:
            raise InputError(
                f"what leaked from a test can only be found with the test: "
                f"{where_to_put(other, lang, 'test', files.form, folder)}"
            )
        tests.append((other, files))
    return tests


def find_leaked(dataset: LabelledDataset, lang: str, folder: Path) -> dict[str, dict[str, str]]:
    """Returns split -> {id: kind} of the examples of train and dev that a test has too (`leakage`)."""
    files = require_files(dataset, lang, folder)
    tests = [
        example
        for other, test_files in tests_of(dataset, lang, folder)
        for example in read_part(other, lang, test_files, "test", Repairs())
    ]
    return {
        split: find_leaks(list(read_split(dataset, lang, files, split, Repairs())), tests)
        for split in splits_there(dataset, files)
        if split != "test"
    }


def _name_documents(
    examples: Iterator[LabelledExample], documents: tuple[tuple[str, int], ...], path: Path
) -> Iterator[LabelledExample]:
    owners = [document for document, sentences in documents for _ in range(sentences)]
    number = 0
    for number, example in enumerate(examples, start=1):
        if number <= len(owners):
            yield replace(example, document=owners[number - 1])
    if number != len(owners):
        raise InputError(
            f"{path} holds {number} sentences, but its documents have {len(owners)}: it is another release than the "
            "declaration knows, or damaged; get it again"
        )


class _Held(Repairs):
    """Repairs that wait until it is known whose they are."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[tuple[str, str | os.PathLike, int | None]] = []

    def add(self, kind: str, file: str | os.PathLike, line: int | None = None) -> None:
        self.waiting.append((kind, file, line))


def _read_listed(
    read: Callable, dataset: LabelledDataset, lang: str, files: RawFiles, part: str, repairs: Repairs
) -> Iterator[LabelledExample]:
    """Both parts are in one place: a document of it is train's if the list names it, test's otherwise."""
    assert files.listed
    listed = set(re.findall(r"\w+", files.listed.read_text(encoding="utf-8", errors="replace")))
    held = _Held()
    for example in read(files.paths[part], lang, dataset.label_map, held):
        # Readers count what they repaired in a document before they yield a sentence of it.
        mine = (example.document in listed) == (part == "train")
        for repair in held.waiting if mine else ():
            repairs.add(*repair)
        held.waiting.clear()
        if mine:
            yield example
    for repair in held.waiting if part == "train" else ():  # of a last document without a sentence: counted once
        repairs.add(*repair)
