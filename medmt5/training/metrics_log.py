"""Training metrics on disk: `metrics.jsonl` (one object a line) and TensorBoard events.

A run that goes on from step n drops the lines after n, so that a killed and resumed run's file reads like that of a run
never killed, but for its times (`TIMES`).
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def _absent(*modules: str) -> Iterator[None]:
    """Makes importing `modules` fail, where they are not imported already."""
    hidden = [name for name in modules if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None: not to be found
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


# What tensorboardX can write, and write to, if it finds these. We write numbers to this disk, and each start of a run
# would wait for two seconds more.
with _absent("torch", "boto3", "google.cloud.storage"):
    from tensorboardX import SummaryWriter

FILE_NAME = "metrics.jsonl"
TIMES = frozenset({"steps_per_second", "tokens_per_second", "mfu"})
"""Metrics that differ from run to run; all others are the same bits for the same experiment."""


class MetricsLog:
    """Appends metrics of a MODEL_DIR, starting at `start_step`.

    Args:
      active: False on every process but one: nothing is read or written.

    Attributes:
      reached_step: the last step that an earlier run wrote of, 0 without one.
    """

    def __init__(self, model_dir: Path, start_step: int, active: bool = True):
        self.reached_step = 0
        self._active = active
        if not active:
            return
        path = Path(model_dir) / FILE_NAME
        lines = read_metrics(path)
        self.reached_step = max((int(line["step"]) for line in lines), default=0)
        # A run that starts over at 0 evaluates its start again; one that goes on from n has done so before it saved.
        kept = [line for line in lines if start_step and line["step"] <= start_step]
        temporary = path.with_suffix(".part")
        temporary.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        temporary.replace(path)
        self._file = path.open("a", encoding="utf-8")
        self._events = SummaryWriter(str(Path(model_dir) / "train"), purge_step=start_step + 1)

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """Appends a line; a value that is not finite is left out of it, for JSON has none."""
        if not self._active:
            return
        finite = {name: value for name, value in metrics.items() if math.isfinite(value)}
        self._file.write(json.dumps({"step": step, **finite}, allow_nan=False) + "\n")
        self._file.flush()
        for name, value in metrics.items():
            self._events.add_scalar(name, value, step)

    def close(self) -> None:
        if self._active:
            self._file.close()
            self._events.close()


def read_metrics(path: Path) -> list[dict[str, float]]:
    """Returns the lines of a metrics file; a last line cut short by a crash is left out; a missing file has none."""
    if not path.is_file():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines
