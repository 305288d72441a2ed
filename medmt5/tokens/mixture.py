"""A mixture as training needs it: names of tasks and rates, in a JSON file beside the token stores.

SeqIO defines mixtures; what it says is written here once, and training reads it without SeqIO.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

from medmt5.errors import InputError
from medmt5.languages import codes


@dataclass(frozen=True)
class Mixture:
    """Tasks and the rates at which their examples are drawn in training: any numbers, not negative.

    A task of rate 0 is for evaluation alone.
    """

    name: str
    tasks: tuple[tuple[str, float], ...]

    def __post_init__(self):
        if not self.tasks:
            raise InputError(f"mixture {self.name} has no tasks")
        for task, rate in self.tasks:
            if not 0 <= rate < math.inf:
                raise InputError(f"mixture {self.name}: the rate of {task} must be a number of at least 0, not {rate}")

    @property
    def trained_on(self) -> tuple[tuple[str, float], ...]:
        """The tasks whose rate is not 0."""
        return tuple((task, rate) for task, rate in self.tasks if rate)

    @classmethod
    def read(cls, root: Path, name: str) -> Mixture:
        """Reads the mixture from the folder of token stores; the name of a task alone is a mixture of one."""
        path = mixture_file(root, name)
        if not path.is_file():
            if (root / name).is_dir():
                return cls(name, ((name, 1.0),))
            raise InputError(
                f"no mixture or task {name} in {root}; make it: medmt5 tokens --mixture {name} --token_store {root} …"
            )
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            tasks = tuple((str(entry["task"]), float(entry["rate"])) for entry in content["tasks"])
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{path} is not a mixture file ({error!r}); delete it and run medmt5 tokens again"
            ) from error
        return cls(name, tasks)

    def write(self, root: Path) -> None:
        path = mixture_file(root, self.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {"name": self.name, "tasks": [{"task": task, "rate": rate} for task, rate in self.tasks]}
        temporary = path.with_name(path.name + ".part")
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        temporary.replace(path)


def mixture_file(root: Path, name: str) -> Path:
    return root / f"{name}.mixture.json"


def language_of(task: str) -> str:
    """Returns the language of a task, by its name: our tasks are called `<data set>.<language>`. One that is not called
    so is a group of its own.

    >>> language_of("medical_corpus.es"), language_of("all_notes"), language_of("notes.v2")
    ('es', 'all_notes', 'notes.v2')
    """
    suffix = task.rpartition(".")[2]
    return suffix if suffix in codes() else task
