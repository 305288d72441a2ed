"""The labels of medmt5, and how the labels of a source are mapped to them.

A label's place decides the ids of its two tokens (pieces + 2 i and pieces + 2 i + 1), so trained embedding rows hang on
it: new labels go to the end of `LABELS`, and none is ever removed or moved. Behind them stand those that the user's own
data sets add; a model's own list lies in its model.json, and rows follow names where two lists differ
(`conversion.vocabulary_fit`).
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from functools import lru_cache

from medmt5.errors import InputError
from medmt5.extensions import ENVIRONMENT_VARIABLE, own_toml

LABELS: tuple[str, ...] = (
    "ClinicalEntity",
    "Dis",
    "Claim",
    "Premise",
    "DiseaseNCBI",
    "Disease",
    "Chemical",
    "PROTEINAS",
    "NORMALIZABLES",
    "NO_NORMALIZABLES",
    "UNCLEAR",
    "Drug",
)
"""Only ever grows at its end: a moved label would silently take another one's trained embedding."""

LabelMap = Mapping[str, str | None]
"""Label of a source -> our label, or None to leave its spans out."""


def known_labels() -> tuple[str, ...]:
    """Returns `LABELS`, then the `new_labels` of the data sets below $MEDMT5_EXTENSIONS, in the order of their files.

    Raises InputError naming the file of a list that is none, or of a label that cannot be a tag.
    """
    return LABELS + _own_labels(os.environ.get(ENVIRONMENT_VARIABLE))


@lru_cache(maxsize=1)
def _own_labels(root: str | None) -> tuple[str, ...]:
    """`root`: what the environment variable says; it is read once."""
    found: dict[str, None] = {}
    for path in own_toml("datasets").values():
        try:
            labels = tomllib.loads(path.read_text(encoding="utf-8")).get("new_labels", [])
        except (tomllib.TOMLDecodeError, UnicodeDecodeError):
            continue  # told by who reads all of it (`datasets.declarations`)
        if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
            raise InputError(f"{path}: new_labels must be a list of strings, not {labels!r}")
        for label in labels:
            if not re.fullmatch(r"[^\W\d]\w*", label):
                raise InputError(
                    f"{path}: a label is written as a tag, so of letters, digits and _, beginning with a letter; not "
                    f"{label!r}"
                )
            if label in LABELS:
                raise InputError(f"{path}: medmt5 has the label {label}; leave it out of new_labels")
            found[label] = None
    return tuple(found)


def check_labels(names: Iterable[str], known: Sequence[str] | None = None) -> tuple[str, ...]:
    """Returns the labels as a tuple; raises InputError if one is unknown, naming the known ones, nearest first.

    >>> check_labels(["Disease", "Drug"])
    ('Disease', 'Drug')

    Args:
      known: None for `known_labels()`; empty for a vocabulary without label tokens, which can spell any name of
        letters, digits, `_` and `-`.
    """
    names = tuple(names)
    known = known_labels() if known is None else known
    for name in names:
        if not known and not re.fullmatch(r"[\w-]+", name):
            raise InputError(f"a label's name is letters, digits, _ and -, not {name!r}; give it such a name")
        if known and name not in known:
            raise InputError(f"unknown label {name!r}; use one of {', '.join(_nearest_first(name, known))}")
    return names


def map_label(label: str, label_map: LabelMap | None, where: str) -> str | None:
    """Returns our label for a source's, None to leave its spans out; without a map the source must use our labels.

    >>> map_label("ety", {"ety": "ClinicalEntity"}, "train.txt:3")
    'ClinicalEntity'

    Args:
      where: `file:line`, for the message of the InputError that an unknown label raises.
    """
    known = {label: label for label in known_labels()} if label_map is None else label_map
    if label not in known:
        raise InputError(
            f"{where}: label {label!r} is not in the label map; known are {', '.join(_nearest_first(label, known))}. "
            "Correct the label, or map it to one of ours (to None to leave it out)"
        )
    ours = known[label]
    return None if ours is None else check_labels([ours])[0]


def _nearest_first(name: str, known: Iterable[str]) -> list[str]:
    known = list(known)
    by_folded = {label.casefold(): label for label in known}
    near = [by_folded[folded] for folded in get_close_matches(name.casefold(), by_folded)]
    return near + [label for label in known if label not in near]
