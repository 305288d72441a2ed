"""Where the wall time of a run goes, part by part, on the screen and in `MODEL_DIR/goodput.jsonl` (one object a run).

A clock is always in exactly one part, so the parts add up to the wall time. While a run goes on, its line is written
again every few seconds: a run that is killed leaves one, and the next run, which knows from where it goes on, moves the
seconds of the steps that must be trained again from `step` to `lost_work`, by the pace that the line records.
"""

from __future__ import annotations

import datetime
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PARTS = ("step", "compile", "data_wait", "evaluation", "save", "restore", "lost_work", "other")
FILE_NAME = "goodput.jsonl"
WRITE_SECONDS = 10
RUNNING = "running"


class Clock:
    """Counts seconds a part; what is spent inside a part on another one is that one's."""

    def __init__(self, now: Callable[[], float] = time.monotonic):
        self._now = now
        self._seconds = dict.fromkeys(PARTS, 0.0)
        self._part, self._since = "other", now()

    @contextmanager
    def spend(self, part: str) -> Iterator[None]:
        outer = self._part
        self._enter(part)
        try:
            yield
        finally:
            self._enter(outer)

    def seconds(self) -> dict[str, float]:
        """Returns part -> seconds until now."""
        self._enter(self._part)
        return dict(self._seconds)

    def _enter(self, part: str) -> None:
        now = self._now()
        self._seconds[self._part] += now - self._since
        self._part, self._since = part, now


class GoodputLog:
    """Keeps `goodput.jsonl` of a MODEL_DIR.

    Args:
      clock: of this run.
      start_step: where this run begins; what earlier runs trained beyond it is lost.
      reached_step: the last step known of earlier runs, from `metrics.jsonl`.
      active: False on every process but one: nothing is written.
    """

    def __init__(self, model_dir: Path, clock: Clock, *, start_step: int, reached_step: int = 0, active: bool = True):
        self._path, self._clock, self._active = Path(model_dir) / FILE_NAME, clock, active
        self._runs = _count_lost(read_goodput(self._path), start_step, reached_step)
        self._run: dict[str, Any] = {
            "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "start_step": start_step,
            "lost_steps": 0,
        }
        self._written = float("-inf")

    @property
    def steps_to_repeat(self) -> int:
        """Steps of the run before this one that are trained again."""
        return self._runs[-1]["lost_steps"] if self._runs else 0

    def update(self, step: int) -> None:
        """Writes how far the run is, at most every `WRITE_SECONDS`."""
        if time.monotonic() - self._written >= WRITE_SECONDS:
            self._write(step, RUNNING)

    def close(self, step: int, end: str) -> list[str]:
        """Writes the run's line with its `end` ("finished", "preempted", "failed"); returns what a person reads."""
        self._write(step, end)
        lines = [summarize("goodput", [self._run])]
        if self._runs:
            lines.append(summarize(f"  of all {len(self._runs) + 1} runs", [*self._runs, self._run]))
        return lines

    def _write(self, step: int, end: str) -> None:
        self._written = time.monotonic()
        seconds = {part: round(value, 3) for part, value in self._clock.seconds().items()}
        self._run |= {"step": step, "end": end, "wall_seconds": round(sum(seconds.values()), 3), "seconds": seconds}
        if self._active:
            temporary = self._path.with_suffix(".part")
            temporary.write_text(
                "".join(json.dumps(line) + "\n" for line in [*self._runs, self._run]), encoding="utf-8"
            )
            temporary.replace(self._path)


def read_goodput(path: Path) -> list[dict[str, Any]]:
    """Returns a run a line, none without a file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def summarize(name: str, runs: Sequence[dict[str, Any]]) -> str:
    """Returns one line: the share of each part in the wall time of all `runs`.

    >>> summarize("goodput", [{"seconds": {"step": 90.0, "compile": 6.0, "lost_work": 4.0}, "lost_steps": 8}])
    'goodput 90.0 %  (of 0:01:40: step 90.0, compile 6.0, lost work 4.0 (8 steps))'
    """
    seconds = {part: sum(run["seconds"].get(part, 0.0) for run in runs) for part in PARTS}
    wall = sum(seconds.values()) or 1.0
    steps = {"lost_work": f" ({sum(run['lost_steps'] for run in runs)} steps)"}
    shown = ", ".join(
        f"{part.replace('_', ' ')} {100 * value / wall:.1f}{steps.get(part, '')}"
        for part, value in seconds.items()
        if value
    )
    return f"{name} {100 * seconds['step'] / wall:.1f} %  (of {duration(wall)}: {shown})"


def duration(seconds: float) -> str:
    """Returns hours, minutes and seconds.

    >>> duration(3725.4), duration(200000)
    ('1:02:05', '2 days, 7:33:20')
    """
    return str(datetime.timedelta(seconds=round(seconds)))


def _count_lost(runs: list[dict[str, Any]], start_step: int, reached_step: int) -> list[dict[str, Any]]:
    """Returns the earlier runs with what they trained beyond `start_step` counted as lost."""
    if runs and runs[-1]["end"] == RUNNING:
        runs[-1]["end"] = "killed"
        # It went on after it last wrote its line: the metrics know how far, its pace how long that took.
        unseen = max(0, reached_step - runs[-1]["step"])
        runs[-1]["seconds"]["step"] += unseen * _pace(runs[-1])
        runs[-1]["step"] += unseen
    for run in runs:
        newly_lost = max(0, run["step"] - run["lost_steps"] - max(start_step, run["start_step"]))
        moved = newly_lost * _pace(run)
        run["seconds"]["step"] = round(run["seconds"]["step"] - moved, 3)
        run["seconds"]["lost_work"] = round(run["seconds"]["lost_work"] + moved, 3)
        run["lost_steps"] += newly_lost
        run["wall_seconds"] = round(sum(run["seconds"].values()), 3)
    return runs


def _pace(run: dict[str, Any]) -> float:
    """Seconds of a step that is not lost."""
    return run["seconds"]["step"] / max(run["step"] - run["start_step"] - run["lost_steps"], 1)
