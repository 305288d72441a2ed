"""Mixtures of the user's own: $MEDMT5_EXTENSIONS/mixtures/<name>.toml, read without SeqIO.

tasks = ["multitask", "notas.pt"]   # tasks, or mixtures, which stand for their tasks
temperature = 2.0                   # of the rates, examples^(1/temperature); 1.0 where it is left out
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

from medmt5.errors import InputError
from medmt5.extensions import own_toml


@dataclass(frozen=True)
class OwnMixture:
    """`tasks` are drawn in proportion to their examples to the power of 1 / temperature."""

    path: Path
    tasks: tuple[str, ...]
    temperature: float = 1.0


def own_mixtures() -> dict[str, OwnMixture]:
    """Returns name -> mixture, sorted; every fault raises InputError, which names the file."""
    return {name: _parse(path) for name, path in own_toml("mixtures").items()}


def _parse(path: Path) -> OwnMixture:
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not TOML: {error}") from error
    if unknown := sorted(set(table) - {"tasks", "temperature"}):
        raise InputError(f"{path}: unknown keys {', '.join(unknown)}; known are tasks, temperature")
    tasks, temperature = table.get("tasks"), table.get("temperature", 1.0)
    if not isinstance(tasks, list) or not tasks or not all(isinstance(task, str) for task in tasks):
        raise InputError(f"{path}: tasks must be a list of names of tasks and mixtures, not {tasks!r}")
    if type(temperature) not in (int, float) or not temperature > 0:
        raise InputError(f"{path}: temperature must be a number above 0, not {temperature!r}")
    return OwnMixture(path, tuple(tasks), float(temperature))
