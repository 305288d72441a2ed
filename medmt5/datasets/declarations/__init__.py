"""The labelled data sets, one TOML file each: a new one is a new file here or among the user's own
(`medmt5.extensions`), and perhaps a label.
"""

from __future__ import annotations

import difflib
from pathlib import Path

from medmt5.datasets.declarations.declaration import LabelledDataset, clean_variant, parse
from medmt5.errors import InputError
from medmt5.extensions import find_toml

_ALL = tuple(parse(path) for path in find_toml(Path(__file__).parent, "datasets").values())

for _dataset in _ALL:
    for _other in (*((_dataset.variant_of,) if _dataset.variant_of else ()), *_dataset.scored_with):
        if _other not in {dataset.name for dataset in _ALL}:
            raise InputError(f"{_dataset.name}: variant_of and scored_with must name data sets; {_other!r} is none")

DATASETS: tuple[LabelledDataset, ...] = tuple(dataset for dataset in _ALL if not dataset.variant_of)
"""Every data set once."""

VARIANTS: tuple[LabelledDataset, ...] = (
    *(dataset for dataset in _ALL if dataset.variant_of),
    *(clean_variant(dataset) for dataset in DATASETS if dataset.has_test),
)
"""The same sets otherwise: from another form of their files, or without leakage (`<name>_clean`)."""


def find(name: str) -> LabelledDataset:
    """Returns the declaration of a data set or variant; an unknown one raises InputError, nearest names first.

    >>> find("e3c_clean").variant_of
    'e3c'
    """
    known = {dataset.name: dataset for dataset in (*DATASETS, *VARIANTS)}
    if name not in known:
        stem = name.partition(".")[0]  # of a task: here a set is named without its language
        near = [stem] if stem in known else difflib.get_close_matches(name, known, n=3, cutoff=0.4)
        advice = f"did you mean {' or '.join(near)}? " if near else ""
        raise InputError(f"no data set {name!r}; {advice}known are {', '.join(known)}")
    return known[name]
