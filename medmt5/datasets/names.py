"""The names of all tasks and mixtures, without SeqIO and TensorFlow: a misspelt one is told at once, not after their
imports. A test holds them against SeqIO's registries.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from medmt5.datasets.declarations import DATASETS, VARIANTS
from medmt5.datasets.own_mixtures import own_mixtures
from medmt5.errors import InputError
from medmt5.languages import codes

MIXTURES = (
    "multitask",
    "multitask_temperature",
    "paper_tests",
    "sample_multitask",
    "real_small",
    *(f"zero_shot.{name}" for name in ("e3c", "abstrct", "diann")),
    *(f"leave_out.{lang}" for lang in ("en", "es", "fr", "it")),
)
"""The package's that are not made for each data set; `medmt5.mixtures` defines them."""


def names() -> set[str]:
    """Returns every name that `medmt5 tokens --mixture` takes."""
    of_sets = {f"{d.name}.{end}" for d in (*DATASETS, *VARIANTS) for end in (*d.languages, "all")}
    return {*MIXTURES, *own_mixtures(), *of_sets, *(f"medical_corpus.{end}" for end in (*codes(), "all"))}


def check_name(name: str, known: Iterable[str]) -> None:
    """Raises InputError for a name that is not known, with the nearest ones, or, where none is near, all."""
    known = sorted(known)
    if name not in known:
        near = get_close_matches(name, known, n=3, cutoff=0.4)
        advice = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(known)}"
        raise InputError(f"no task or mixture {name!r}; {advice}")
