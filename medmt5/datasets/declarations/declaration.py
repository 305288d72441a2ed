"""What a data set's TOML file says: which files hold what, under which labels, and how many of it.

Nothing is read but the declaration; `datasets.raw_files` finds the files, `datasets.reading` reads them.
"""

from __future__ import annotations

import csv
import dataclasses
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path, PurePosixPath
from typing import Any

from medmt5 import languages
from medmt5.annotation.labels import LabelMap, check_labels
from medmt5.errors import InputError

FORMATS = ("bioc", "brat", "conll", "inline_tags", "pubtator", "xmi")
"""What `datasets.reading` reads."""

PARTS = ("train", "dev", "test")
UNITS = ("documents", "sentences", "words")
"""What is counted besides the spans of each label."""

Counts = Mapping[str, int]
"""A unit or label -> how many."""


@dataclass(frozen=True)
class Form:
    """One way the files come. All forms of a data set hold the same examples; the one that is there is read.

    Attributes:
      format: one of FORMATS.
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
      new_labels: those of `labels` that medmt5 does not have; in the user's own files only (`annotation.labels`).
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
    new_labels: tuple[str, ...] = ()
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
    """Returns the declaration in a TOML file; every fault raises InputError, which names the file."""
    try:
        dataset = _parse(path)
        _check(dataset)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not TOML: {error}") from error
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    if path.stem != dataset.name:
        raise InputError(f"{path}: name must be the file's name, {path.stem!r}, not {dataset.name!r}")
    return dataset


def _parse(path: Path) -> LabelledDataset:
    table = tomllib.loads(path.read_text(encoding="utf-8"))
    forms = [
        form | {"files": {part: _listed(places) for part, places in _table(form, "files").items()}}
        for form in _tables(table, "forms")
    ]
    return _build(
        LabelledDataset,
        table
        | {
            "forms": tuple(_build(Form, form) for form in forms),
            "label_map": {source: ours or None for source, ours in _table(table, "label_map").items()},
            "downloads": tuple(_build(Download, download) for download in _tables(table, "downloads")),
            "differences": tuple(_build(Difference, entry) for entry in _tables(table, "differences")),
            "documents": _read_documents(path.parent, table["documents"]) if "documents" in table else {},
        },
    )


def _table(table: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    if not isinstance(value := table.get(key, {}), dict):
        raise InputError(f"{key} must be a table, [{key}], not {value!r}")
    return value


def _tables(table: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    value = table.get(key, [])
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        raise InputError(f"{key} must be tables, each below a line [[{key}]]")
    return value


def _listed(places: Any) -> Any:
    return [places] if isinstance(places, str) else places


KINDS = {
    "str": ("a string", lambda value: isinstance(value, str)),
    "int": ("a whole number", lambda value: type(value) is int),
    "float": ("a number", lambda value: type(value) in (int, float)),
    "tuple[str, ...]": ("a list of strings", lambda value: _is_strings(value)),
    "Mapping[str, tuple[str, ...]]": (
        "a table of strings or lists of strings",
        lambda value: all(map(_is_strings, value.values())),
    ),
    "Mapping[str, str]": ("a table of strings", lambda value: _is_table_of(value, str)),
    "Counts": ("a table of whole numbers", lambda value: _is_table_of(value, int)),
}
"""Type of an attribute -> what TOML must hold for it, and whether it does."""


def _is_strings(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(entry, str) for entry in value)


def _is_table_of(value: Any, kind: type) -> bool:
    return isinstance(value, dict) and all(type(entry) is kind for entry in value.values())


def _build(cls: type, table: Mapping[str, Any]) -> Any:
    known = {f.name: f for f in fields(cls) if f.name != "clean"}  # which `clean_variant` alone sets
    if unknown := sorted(set(table) - set(known)):
        raise InputError(f"unknown keys {', '.join(unknown)}; known are {', '.join(known)}")
    needed = [n for n, f in known.items() if f.default is MISSING and f.default_factory is MISSING]
    if missing := [n for n in needed if n not in table]:
        raise InputError(f"missing keys {', '.join(missing)}")
    for key, value in table.items():
        what, is_it = KINDS.get(str(known[key].type), ("", lambda value: True))
        if not is_it(value):
            raise InputError(f"{key} must be {what}, not {value!r}")
    return cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in table.items()})


def _read_documents(folder: Path, name: Any) -> dict[tuple[str, str], tuple[tuple[str, int], ...]]:
    if not isinstance(name, str) or not (folder / name).is_file():
        raise InputError(f"documents must name a table in the folder of the declaration, not {name!r}")
    documents: dict[tuple[str, str], list[tuple[str, int]]] = {}
    with (folder / name).open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            documents.setdefault((row["lang"], row["part"]), []).append((row["document"], int(row["sentences"])))
    return {key: tuple(rows) for key, rows in documents.items()}


def _check(dataset: LabelledDataset) -> None:
    if not re.fullmatch(r"\d+\.\d+\.\d+", dataset.version):
        raise InputError(f"version must be three numbers, as 1.0.0, not {dataset.version!r}")
    if not dataset.languages or len(set(dataset.languages)) < len(dataset.languages):
        raise InputError("languages must have at least one code, and each once")
    if not dataset.forms or not dataset.parts or any(set(form.files) != set(dataset.parts) for form in dataset.forms):
        raise InputError(f"every form must have the same parts, of {', '.join(PARTS)}")
    for form in dataset.forms:
        if form.format not in FORMATS:
            raise InputError(f"there is no format {form.format!r}; it must be one of {', '.join(FORMATS)}")
    if {label for label in dataset.label_map.values() if label} != set(dataset.labels):
        raise InputError(f"label_map must map to the labels {', '.join(dataset.labels)}, to all and no other")
    if unused := set(dataset.new_labels) - set(dataset.labels):
        raise InputError(f"new_labels must be among labels; {', '.join(sorted(unused))} is not")
    if dataset.dev_share and ("dev" in dataset.parts or "train" not in dataset.parts):
        raise InputError("dev_share is for sets with a train part and without a dev part")
    for lang in dataset.languages:
        if not dataset.forms_of(lang):
            raise InputError(f"no form has the language {lang}")
    _check_counts(dataset)
    for form in dataset.forms:
        for lang in dataset.languages:
            _require_below(place for part in form.files for place in form.places(part, lang))
    _require_below(PurePosixPath(load.folder) / name for load in dataset.downloads for name in load.sha256)


def _check_counts(dataset: LabelledDataset) -> None:
    """A misspelt key would never be compared with what is read."""
    published = [(lang, part, counts) for lang, parts in dataset.published.items() for part, counts in parts.items()]
    changes = [(entry.lang, entry.part, entry.changes) for entry in dataset.differences]
    for key, entries in (("published", published), ("differences", changes)):
        for lang, part, counts in entries:
            if lang not in dataset.languages or part not in dataset.parts:
                raise InputError(f"{key}: there is no part {lang}.{part}")
            if unknown := sorted(set(counts) - {*UNITS, *dataset.labels}):
                known = ", ".join((*UNITS, *dataset.labels))
                raise InputError(f"{key}, {lang}.{part}: nothing counts {', '.join(unknown)}; known are {known}")
            what, is_it = KINDS["Counts"]
            if not is_it(counts):
                raise InputError(f"{key}, {lang}.{part} must be {what}")


def _require_below(places: Iterable[PurePosixPath]) -> None:
    for place in places:
        # Anything else would read, or write over, files that the user never offered.
        if place.is_absolute() or ".." in place.parts:
            raise InputError(f"files must lie below the data directory, not at {place}")


def _place(pattern: str, lang: str) -> PurePosixPath:
    name = languages.load(lang).name
    try:
        return PurePosixPath(pattern.format(lang=lang, LANG=lang.upper(), language=name.lower(), Language=name))
    except (AttributeError, LookupError, ValueError) as error:
        known = "{lang}, {LANG}, {language}, {Language}"
        raise InputError(f"braces in a place of files must be one of {known}, not as in {pattern!r}") from error
