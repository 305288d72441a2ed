"""Progress of long work on standard error: a bar on a terminal, now and then a line in a log file."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

LINE_SECONDS = 20  # between lines when standard error is no terminal


@contextmanager
def training_progress(
    name: str, start_step: int, train_steps: int, shown: bool = True
) -> Iterator[Callable[[int, dict[str, float]], None]]:
    """Yields report(step, metrics): shows the step, the loss and the time left, or nothing unless `shown`."""
    if not shown:
        yield lambda step, metrics: None
        return
    with _progress("step") as (progress, lines):
        task = progress.add_task(name, total=train_steps, completed=start_step, note="")
        seen: dict[str, float] = {}

        def report(step: int, metrics: dict[str, float]) -> None:
            seen.update(metrics)
            parts = [f"{key} {seen[key]:.3f}" for key in ("loss", "eval_loss") if key in seen]
            if "steps_per_second" in seen:
                parts.append(f"{seen['steps_per_second']:.2f} steps/s")
            note = "  ".join(parts)
            progress.update(task, completed=step, note=note)
            lines(f"{name}: step {step}/{train_steps}  {note}", last=step >= train_steps)

        yield report


@contextmanager
def progress_bar(name: str, total: int) -> Iterator[Callable[[int], None]]:
    """Yields advance(n): shows how many of `total` are done."""
    with _progress("sentences") as (progress, lines):
        task = progress.add_task(name, total=total, note="")
        done = 0

        def advance(count: int) -> None:
            nonlocal done
            done += count
            progress.update(task, completed=done)
            lines(f"{name}: {done}/{total}", last=done >= total)

        yield advance


@contextmanager
def _progress(unit: str) -> Iterator[tuple[Progress, Callable[..., None]]]:
    console = Console(stderr=True)
    columns = [
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TextColumn("{task.fields[note]}"),
    ]
    last_line = 0.0

    def line(text: str, last: bool) -> None:
        nonlocal last_line
        if not console.is_terminal and (last or time.monotonic() - last_line > LINE_SECONDS):
            last_line = time.monotonic()
            console.print(text, highlight=False, markup=False, soft_wrap=True)

    with Progress(
        *columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console, disable=not console.is_terminal
    ) as bar:
        yield bar, line
