"""Writes the sample: raw text in real formats for pre-training, and two labelled data sets, in four languages.

The layout is the one that `medmt5/languages/*.toml` and `medmt5/datasets` expect below a data directory. The same
seed gives the same bytes.
"""

from __future__ import annotations

from pathlib import Path

from medmt5.errors import InputError
from medmt5.sample.labelled import write_labelled
from medmt5.sample.raw import write_raw


def write_sample(directory: str | Path, seed: int = 0) -> None:
    """Writes the sample below `directory`, which must be new or empty: the corpus reads whatever lies there."""
    directory = Path(directory)
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise InputError(
            f"the sample is written to a new or empty directory, and {directory} is neither; name another one"
        )
    directory.mkdir(parents=True, exist_ok=True)
    write_raw(directory, seed)
    write_labelled(directory, seed)
