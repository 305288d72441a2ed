"""A language: how its words are counted, what good text looks like, and where its raw text comes from.

The files `medmt5/languages/xx.toml`, and the user's own (`medmt5.extensions`), are the only place that knows a
language. This module reads and checks them; it opens no data (`medmt5.corpus` does) and knows nothing of how text is
tokenised.
"""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Mapping
from dataclasses import MISSING, dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any

from medmt5.errors import InputError
from medmt5.extensions import ENVIRONMENT_VARIABLE, find_toml

FOLDER = Path(__file__).parent
SEGMENTATIONS = ("spaces", "characters")
FORMATS = ("medline_xml", "ctgov_json", "mediawiki_xml", "text", "jsonl")
"""Raw formats that `medmt5.corpus` reads."""


@dataclass(frozen=True)
class Quality:
    """Thresholds that a document must reach to be kept (`medmt5/corpus/filters.py`); shares are between 0 and 1.

    Attributes:
      stop_words: words, lower case, frequent in the language and rare in others; without any it is not checked.
      min_words: documents with fewer words are dropped.
      min_stop_words: least share of stop words among the words.
      max_repeated_lines: greatest share of non-empty lines that repeat an earlier one.
      min_letters: least share of letters and combining marks among the characters that are not spaces.
    """

    stop_words: frozenset[str] = frozenset()
    min_words: int = 10
    min_stop_words: float = 0.05
    max_repeated_lines: float = 0.3
    min_letters: float = 0.6


@dataclass(frozen=True)
class Source:
    """Raw text in one format: `files` a glob below the data directory, `expected_words` the size of a published set."""

    name: str
    format: str
    files: str
    licence: str
    expected_words: int | None = None


@dataclass(frozen=True)
class Language:
    """One language.

    Attributes:
      segmentation: how words are counted.
      sample: a sentence in it.
      abbreviations: lower case, without the last full stop; no sentence ends after one (`annotation.sentences`).
    """

    code: str
    name: str
    segmentation: str
    sample: str
    abbreviations: frozenset[str] = frozenset()
    quality: Quality = field(default_factory=Quality)
    sources: tuple[Source, ...] = ()

    def count_words(self, text: str) -> int:
        """Returns the number of words of `text`: runs without spaces, or characters where words are not written apart.

        >>> load("fr").count_words("Le patient  souffre d'asthme.")
        4
        """
        words = text.split()
        return len(words) if self.segmentation == "spaces" else sum(map(len, words))


def codes() -> tuple[str, ...]:
    """Returns the codes of all languages, sorted.

    >>> codes()[:2]
    ('en', 'es')
    """
    return tuple(find_toml(FOLDER, "languages"))


@cache
def load(code: str) -> Language:
    """Returns the language `code`; an unknown one raises InputError with the list of known ones.

    >>> load("es").name
    'Spanish'
    """
    files = find_toml(FOLDER, "languages")
    if code not in files:
        raise InputError(
            f"no language {code!r}: known are {', '.join(files)}; a new one is a file languages/{code}.toml in "
            f"the folder that {ENVIRONMENT_VARIABLE} names (docs/adding_a_language.md)"
        )
    path = files[code]
    try:
        toml = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8: {error}") from error
    language = parse(toml, str(path))
    if language.code != code:
        raise InputError(f"{path}: code must be the file's name, {code!r}, not {language.code!r}")
    return language


def parse(toml: str, name: str) -> Language:
    """Returns the language written in `toml`; `name` is what errors call the text. Every fault raises InputError."""
    try:
        table = tomllib.loads(toml)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{name}: not TOML: {error}") from error
    if not isinstance(table.get("quality", {}), dict):
        raise InputError(f"{name}: quality must be a table, below a line [quality]")
    tables = table.get("sources", [])
    if not isinstance(tables, list) or not all(isinstance(entry, dict) for entry in tables):
        raise InputError(f"{name}: sources must be tables, each below a line [[sources]]")
    quality = _build(Quality, table.pop("quality", {}), f"{name}, [quality]", convert={"stop_words": frozenset})
    entries = [(f"{name}, [[sources]] number {i}", entry) for i, entry in enumerate(table.pop("sources", []), 1)]
    sources = tuple(_build(Source, entry, where) for where, entry in entries)
    table |= {"quality": quality, "sources": sources}
    language = _build(Language, table, name, convert={"abbreviations": frozenset})
    _require(language.segmentation, SEGMENTATIONS, f"{name}: segmentation")
    for (where, _), source in zip(entries, sources, strict=True):
        _require(source.format, FORMATS, f"{where}: format")
        # A glob that leaves the data directory would read files the user never offered.
        if source.files.startswith("/") or ".." in Path(source.files).parts:
            raise InputError(f"{where}: files must be a glob below the data directory, not {source.files!r}")
    names = [source.name for source in sources]
    if repeated := sorted({n for n in names if names.count(n) > 1}):
        raise InputError(f"{name}: sources must have different names; repeated: {', '.join(repeated)}")
    return language


def _build(cls: type, table: Mapping[str, Any], where: str, convert: Mapping[str, Any] | None = None) -> Any:
    """Returns `cls(**table)` after checking that the keys are those of `cls` and that the numbers are numbers."""
    known = {f.name: f for f in fields(cls)}
    if unknown := sorted(set(table) - set(known)):
        raise InputError(f"{where}: unknown keys {', '.join(unknown)}; known are {', '.join(known)}")
    needed = [n for n, f in known.items() if f.default is MISSING and f.default_factory is MISSING]
    if missing := [n for n in needed if n not in table]:
        raise InputError(f"{where}: missing keys {', '.join(missing)}")
    kinds: dict[str, tuple[type, ...]] = {
        "str": (str,), "int": (int,), "int | None": (int,), "float": (float, int), "frozenset[str]": (list,),
    }  # fmt: skip
    for key, value in table.items():
        if (kind := kinds.get(str(known[key].type))) and (not isinstance(value, kind) or isinstance(value, bool)):
            raise InputError(f"{where}: {key} must be of type {known[key].type}, not {value!r}")
        if isinstance(value, list) and not all(isinstance(entry, str) for entry in value):
            raise InputError(f"{where}: {key} must be a list of strings, not {value!r}")
    return cls(**{key: (convert or {}).get(key, lambda v: v)(value) for key, value in table.items()})


def _require(value: str, allowed: Collection[str], what: str) -> None:
    if value not in allowed:
        raise InputError(f"{what} must be one of {', '.join(allowed)}, not {value!r}")
