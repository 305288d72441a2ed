"""Training metrics on disk: `metrics.jsonl` (one object a line) and TensorBoard events.

A run that goes on from step n drops the lines after n, so that a killed and resumed run's file reads like that of a run
never killed.
"""

from __future__ import annotations

import json
from pathlib import Path

from tensorboardX import SummaryWriter

FILE_NAME = "metrics.jsonl"


class MetricsLog:
    """Appends metrics of a MODEL_DIR, starting at `start_step`. Of several processes, one `writes`."""

    def __init__(self, model_dir: Path, start_step: int, writes: bool = True):
        self._writes = writes
        if not writes:
            return
        self._path = Path(model_dir) / FILE_NAME
        # A run that starts over at 0 evaluates its start again; one that goes on from n has done so before it saved.
        kept = [line for line in read_metrics(self._path) if start_step and line["step"] <= start_step]
        temporary = self._path.with_suffix(".part")
        temporary.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        temporary.replace(self._path)
        self._file = self._path.open("a", encoding="utf-8")
        self._events = SummaryWriter(str(Path(model_dir) / "train"), purge_step=start_step + 1)

    def write(self, step: int, metrics: dict[str, float]) -> None:
        if not self._writes:
            return
        self._file.write(json.dumps({"step": step, **metrics}) + "\n")
        self._file.flush()
        for name, value in metrics.items():
            self._events.add_scalar(name, value, step)

    def close(self) -> None:
        if not self._writes:
            return
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
