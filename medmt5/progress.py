"""Progress of long work on standard error: a bar on a terminal, and lines that stay, in a log file too."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

LINE_SECONDS = 20  # between lines that stay, at least


class TrainingProgress:
    """Shows a run: a bar on a terminal, and a line a log period, but not more often than every `LINE_SECONDS`.

    Args:
      name: of the run.
      active: False on every process but one: nothing is shown.
      start_step, train_steps: where it begins and ends.
      console: where to; None = standard error.
      now: seconds, any origin.
    """

    def __init__(
        self,
        name: str,
        start_step: int,
        train_steps: int,
        active: bool = True,
        console: Console | None = None,
        now: Callable[[], float] = time.monotonic,
    ):
        self._console = console or Console(stderr=True, quiet=not active)
        self._name, self._train_steps, self._now = name, train_steps, now
        self._first: tuple[float, int] | None = None
        self._last_line = float("-inf")
        self._training, self._held_out = "", ""
        columns = (
            TextColumn("{task.description}"),
            BarColumn(24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[x]}"),
        )
        self._bar = Progress(*columns, console=self._console, disable=not (active and self._console.is_terminal))
        self._task = self._bar.add_task(name, total=train_steps, completed=start_step, x="compiling")

    def __enter__(self) -> TrainingProgress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def trained(self, step: int, metrics: Mapping[str, float]) -> None:
        """Shows the metrics of a log period that ends with `step`."""
        self._training = "  ".join([*_training_parts(metrics), *self._time_left(step, metrics)])
        self._bar.update(self._task, completed=step, x=f"{self._training}  {self._held_out}".rstrip())
        if step >= self._train_steps or self._now() - self._last_line >= LINE_SECONDS:
            self._last_line = self._now()
            self.tell(f"{self._name}: step {step}/{self._train_steps}  {self._training}")

    def evaluated(self, step: int, metrics: Mapping[str, float]) -> None:
        """Shows the metrics of the dev split, a language after the other."""
        if "eval_loss" not in metrics:
            return
        self._held_out = f"eval_loss {metrics['eval_loss']:.3f}"
        self._bar.update(self._task, completed=step, x=f"{self._training}  {self._held_out}".lstrip())
        perplexities = [
            f"{name.split('/')[1]} {value:.4g}" for name, value in metrics.items() if name.endswith("/perplexity")
        ]
        self.tell(
            f"{self._name}: step {step}/{self._train_steps}  {self._held_out}  acc {metrics['eval_accuracy']:.1%}"
            f"  perplexity {'  '.join(perplexities)}"
        )

    def tell(self, text: str) -> None:
        """Prints a line that stays, above the bar."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def _time_left(self, step: int, metrics: Mapping[str, float]) -> list[str]:
        """Time is taken since the first report, evaluations and saves included: what is left will have them too."""
        now = self._now()
        if self._first is None:
            self._first = (now, step)
        time_then, step_then = self._first
        if step > step_then:
            seconds_a_step = (now - time_then) / (step - step_then)
        elif metrics.get("steps_per_second"):
            seconds_a_step = 1 / metrics["steps_per_second"]
        else:
            return []
        left = datetime.timedelta(seconds=round(seconds_a_step * (self._train_steps - step)))
        return [f"ETA {left}"] if step < self._train_steps else []


def _training_parts(metrics: Mapping[str, float]) -> list[str]:
    formats: dict[str, Callable[[float], str]] = {
        "loss": lambda x: f"loss {x:.3f}",
        "accuracy": lambda x: f"acc {x:.1%}",
        "tokens_per_second": lambda x: f"{short_number(x).strip()} tokens/s",
        "mfu": lambda x: f"MFU {x:.1%}",
        "epochs": lambda x: f"epoch {x:.2f}",
        "skipped": lambda x: f"skipped {x:.0f}" if x else "",
    }
    parts = [text(metrics[name]) for name, text in formats.items() if name in metrics]
    return [part for part in parts if part]


def short_number(value: float) -> str:
    """Returns three digits and a unit.

    >>> [short_number(x) for x in (7.25, 999.7, 12345, 1.2e6, 3.6e13)]
    ['7.25 ', '1 k', '12.3 k', '1.2 M', '36 T']
    """
    units = iter(" kMGTPE")
    unit = next(units)
    while float(f"{value:.3g}") >= 1000 and unit != "E":
        value, unit = value / 1000, next(units)
    return f"{value:.3g} {unit}".replace("  ", " ")


@contextmanager
def progress_bar(name: str, total: int | None, unit: str = "sentences") -> Iterator[Callable[[int], None]]:
    """Yields advance(n): shows how many of `total` are done; None = nobody knows how many there are."""
    console = Console(stderr=True)
    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(unit)]
    last_line, done = 0.0, 0
    with Progress(
        *columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task(name, total=total)

        def advance(count: int) -> None:
            nonlocal done, last_line
            done += count
            bar.update(task, completed=done)
            if not console.is_terminal and (done == total or time.monotonic() - last_line > LINE_SECONDS):
                last_line = time.monotonic()
                console.print(
                    f"{name}: {done}/{'?' if total is None else total}",
                    highlight=False,
                    markup=False,
                    soft_wrap=True,
                )

        yield advance
