"""What a data set's TOML file says: which files hold what, under which labels, and how many of it.

Nothing is read but the declaration; `datasets.raw_files` finds the files, `datasets.reading` reads them.
"""

from __future__ import annotations

import csv
import dataclasses
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path, PurePosixPath
from typing import Any

from medmt5 import languages
from medmt5.annotation.labels import LabelMap, check_labels
from medmt5.errors import InputError

PARTS = ("train", "dev", "test")
UNITS = ("documents", "sentences", "words")
"""What is counted besides the spans of each label."""

Counts = Mapping[str, int]
"""A unit or label -> how many."""


@dataclass(frozen=True)
class Form:
    """One way the files come. All forms of a data set hold the same examples; the one that is there is read.

    Attributes:
      format: a key of `reading.READERS`.
      files: part -> places below the data directory, the first that is there counts; {lang}, {LANG}, {language} and
        {Language} stand for the code and the English name; a place may go on inside an archive.
      languages: that come so; () for all of the data set.
      listed: a file that names documents, those of "train"; "test" are then the others, in the same place.
    """

    format: str
    files: Mapping[str, tuple[str, ...]]
    languages: tuple[str, ...] = ()
    listed: str = ""

    def places(self, part: str, lang: str) -> tuple[PurePosixPath, ...]:
        """Returns where the part may lie, relative to the data directory."""
        return tuple(_place(pattern, lang) for pattern in self.files[part])


@dataclass(frozen=True)
class Download:
    """Files at stable addresses: N of `sha256` is at `url` + N and goes to `folder` + N below the data directory."""

    url: str
    folder: str
    sha256: Mapping[str, str]


@dataclass(frozen=True)
class Difference:
    """Why we count other numbers than the owners: a repair, how often it is made, and what it changes.

    Attributes:
      changes: unit or label -> our number less the published one.
    """

    lang: str
    part: str
    repair: str
    times: int
    changes: Counts


@dataclass(frozen=True)
class LabelledDataset:
    """One release of a labelled data set. Tasks are named `<name>.<language>`.

    Attributes:
      version: of our reading of it, as TFDS counts them; raise it when the reader changes what it yields.
      languages: codes.
      labels: ours; the label prompt of its examples.
      label_map: label in the files -> ours, or None to leave its spans out.
      get: how one gets the files, for people.
      published: language -> part -> what its owners (or, where they are silent, the files' own marks) count.
      differences: what the published counts do not know.
      dev_share: share of the documents of "train" that become "dev", where the owners give none; 0 where they do.
      documents: (language, part) -> (document, number of its sentences), in order, where the format does not tell.
      scored_with: other sets on whose tests its models are scored: the clean variant leaves their sentences out too.
      variant_of: the set that this is another form or the clean variant of.
      clean: train and dev are without the sentences of tests (`leakage`).
    """

    name: str
    version: str
    languages: tuple[str, ...]
    labels: tuple[str, ...]
    label_map: LabelMap
    forms: tuple[Form, ...]
    licence: str
    homepage: str
    citation: str
    get: str
    downloads: tuple[Download, ...] = ()
    published: Mapping[str, Mapping[str, Counts]] = field(default_factory=dict)
    differences: tuple[Difference, ...] = ()
    dev_share: float = 0.0
    documents: Mapping[tuple[str, str], tuple[tuple[str, int], ...]] = field(default_factory=dict)
    scored_with: tuple[str, ...] = ()
    variant_of: str = ""
    clean: bool = False

    def __post_init__(self) -> None:
        check_labels(self.labels)

    def forms_of(self, lang: str) -> tuple[Form, ...]:
        """Returns the forms in which the language comes."""
        return tuple(form for form in self.forms if not form.languages or lang in form.languages)

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts as the owners divide the set."""
        return tuple(part for part in PARTS if part in self.forms[0].files)

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits of the tasks: the parts, and "dev" where it is taken from "train"."""
        return tuple(part for part in PARTS if part in self.parts or (part == "dev" and self.dev_share))

    @property
    def has_test(self) -> bool:
        """Whether a test could have leaked into what is trained on."""
        return "train" in self.parts and bool("test" in self.parts or self.scored_with)


def clean_variant(dataset: LabelledDataset) -> LabelledDataset:
    """Returns `<name>_clean`: the same set without what its train and dev splits share with tests."""
    return dataclasses.replace(dataset, name=f"{dataset.name}_clean", variant_of=dataset.name, clean=True)


def parse(path: Path) -> LabelledDataset:
    """Returns the declaration in a TOML file; every fault raises InputError."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path}: not TOML: {error}") from error
    forms = tuple(
        _build(Form, form | {"files": {part: _listed(p) for part, p in form.get("files", {}).items()}}, path)
        for form in table.get("forms", [])
    )
    dataset = _build(
        LabelledDataset,
        table
        | {
            "forms": forms,
            "label_map": {source: ours or None for source, ours in table.get("label_map", {}).items()},
            "downloads": tuple(_build(Download, download, path) for download in table.get("downloads", [])),
            "differences": tuple(_build(Difference, entry, path) for entry in table.get("differences", [])),
            "documents": _read_documents(path.with_name(table["documents"])) if "documents" in table else {},
        },
        path,
    )
    _check(dataset, path)
    return dataset


def _listed(places: str | list[str]) -> tuple[str, ...]:
    return (places,) if isinstance(places, str) else tuple(places)


def _build(cls: type, table: Mapping[str, Any], path: Path) -> Any:
    known = {f.name: f for f in fields(cls)}
    if unknown := sorted(set(table) - set(known)):
        raise InputError(f"{path}: unknown keys {', '.join(unknown)}; known are {', '.join(known)}")
    needed = [n for n, f in known.items() if f.default is MISSING and f.default_factory is MISSING]
    if missing := [n for n in needed if n not in table]:
        raise InputError(f"{path}: missing keys {', '.join(missing)}")
    return cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in table.items()})


def _read_documents(path: Path) -> dict[tuple[str, str], tuple[tuple[str, int], ...]]:
    documents: dict[tuple[str, str], list[tuple[str, int]]] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            documents.setdefault((row["lang"], row["part"]), []).append((row["document"], int(row["sentences"])))
    return {key: tuple(rows) for key, rows in documents.items()}


def _check(dataset: LabelledDataset, path: Path) -> None:
    if path.stem != dataset.name:
        raise InputError(f"{path}: name must be the file's name, {path.stem!r}, not {dataset.name!r}")
    if not dataset.forms or any(set(form.files) != set(dataset.parts) for form in dataset.forms):
        raise InputError(f"{path}: every form must have the same parts, of {', '.join(PARTS)}")
    if {label for label in dataset.label_map.values() if label} != set(dataset.labels):
        raise InputError(f"{path}: label_map must map to the labels {', '.join(dataset.labels)}, to all and no other")
    if dataset.dev_share and ("dev" in dataset.parts or "train" not in dataset.parts):
        raise InputError(f"{path}: dev_share is for sets with a train part and without a dev part")
    for lang in dataset.languages:
        if not dataset.forms_of(lang):
            raise InputError(f"{path}: no form has the language {lang}")
    for form in dataset.forms:
        for lang in dataset.languages:
            for place in (p for part in form.files for p in form.places(part, lang)):
                # Anything else would read files that the user never offered.
                if place.is_absolute() or ".." in place.parts:
                    raise InputError(f"{path}: files must lie below the data directory, not at {place}")


def _place(pattern: str, lang: str) -> PurePosixPath:
    name = languages.load(lang).name
    return PurePosixPath(pattern.format(lang=lang, LANG=lang.upper(), language=name.lower(), Language=name))
