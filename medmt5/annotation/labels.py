"""The labels of medmt5, and how the labels of a source are mapped to them.

A label's place decides the ids of its two tokens (pieces + 2 i and pieces + 2 i + 1), so trained embedding rows hang on
it: new labels go to the end of `LABELS`, and none is ever removed or moved.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches

from medmt5.errors import InputError

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


def check_labels(names: Iterable[str], known: Sequence[str] = LABELS) -> tuple[str, ...]:
    """Returns the labels as a tuple; raises InputError if one is unknown, naming the known ones, nearest first.

    >>> check_labels(["Disease", "Drug"])
    ('Disease', 'Drug')
    """
    names = tuple(names)
    for name in names:
        if name not in known:
            raise InputError(f"unknown label {name!r}; use one of {', '.join(_nearest_first(name, known))}")
    return names


def map_label(label: str, label_map: LabelMap | None, where: str) -> str | None:
    """Returns our label for a source's, None to leave its spans out; without a map the source must use our labels.

    >>> map_label("ety", {"ety": "ClinicalEntity"}, "train.txt:3")
    'ClinicalEntity'

    Args:
      where: `file:line`, for the message of the InputError that an unknown label raises.
    """
    known = dict(zip(LABELS, LABELS, strict=True)) if label_map is None else label_map
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
