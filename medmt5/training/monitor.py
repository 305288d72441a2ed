"""Follows a run from the host without making the devices wait: metrics, pace, progress, steps that went wrong.

The metrics of a step are read `STEPS_IN_FLIGHT` steps after it was dispatched: by then the device is busy with later
ones, so that reading drains nothing; and because the host waits there for the oldest step, it cannot run ahead without
end, and its clock shows the pace of the devices, not that of dispatching.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from medmt5.training.goodput import Clock, GoodputLog
from medmt5.training.metrics_log import MetricsLog
from medmt5.training.skipped_log import SkippedLog

STEPS_IN_FLIGHT = 2


class Show(Protocol):
    """What a person sees; see `medmt5.progress.TrainingProgress`."""

    def trained(self, step: int, metrics: Mapping[str, float]) -> None: ...
    def evaluated(self, step: int, metrics: Mapping[str, float]) -> None: ...
    def tell(self, text: str) -> None: ...


class Utilisation:
    """Model FLOP utilisation: the share of the devices' peak that a run's steps come to.

    The FLOPs are those of padded shapes (`model.flops`), so padding counts as work.

    Args:
      step_flops: of one step, on all devices.
      peak_flops: () -> FLOP/s of all devices together, None if unknown.
      after_seconds: asked for once so much has been trained: on a CPU it is measured, which takes a second.
    """

    def __init__(self, step_flops: float, peak_flops: Callable[[], float | None], after_seconds: float = 0.0):
        self._step_flops, self._peak_flops, self._after_seconds = step_flops, peak_flops, after_seconds
        self._peak: float | None = None
        self._asked = False

    def due(self, trained_seconds: float) -> bool:
        return not self._asked and trained_seconds >= self._after_seconds

    def find_peak(self) -> None:
        """To be called with idle devices."""
        self._asked, self._peak = True, self._peak_flops()

    def mfu(self, steps_per_second: float) -> float | None:
        return self._step_flops * steps_per_second / self._peak if self._peak else None


class Monitor:
    """Takes the metrics of every step and evaluation; writes, shows and, where it must, stops.

    Args:
      log_period: steps.
      start_step, train_steps: of the run; its last step is logged whatever the period.
      learning_rate: step, counted from 0 -> its rate.
      epochs: name of a metric -> epochs of data a step, e.g. {"epochs": 0.001}.

    Attributes:
      step: the last one that is known to be done.
    """

    def __init__(
        self,
        *,
        log: MetricsLog,
        show: Show,
        clock: Clock,
        goodput: GoodputLog,
        skipped: SkippedLog,
        utilisation: Utilisation,
        log_period: int,
        start_step: int,
        train_steps: int,
        learning_rate: Callable[[int], Any],
        epochs: Mapping[str, float],
    ):
        self._log, self._show, self._clock, self._goodput, self._skipped = log, show, clock, goodput, skipped
        self._utilisation = utilisation
        self.step = start_step
        self._log_period, self._train_steps = log_period, train_steps
        self._learning_rate, self._epochs = learning_rate, epochs
        self._in_flight: deque[tuple[int, dict[str, jax.Array]]] = deque()
        self._window = _Window()
        self._window_start = 0.0

    def dispatched(self, step: int, metrics: dict[str, jax.Array]) -> None:
        """Takes the metrics, still being computed, of the step that makes the state that of `step`.

        Raises InputError when too many steps were skipped; it may come `STEPS_IN_FLIGHT` steps late.
        """
        if self._is_logged(step):
            # Computed here, on the devices' queue: when it is read, steps that came later would be in its way.
            metrics = metrics | {"learning_rate": jnp.asarray(self._learning_rate(step - 1))}
        for value in metrics.values():
            value.copy_to_host_async()
        self._in_flight.append((step, metrics))
        while len(self._in_flight) > STEPS_IN_FLIGHT:
            self._land()

    def land(self) -> None:
        """Returns when all steps are done and accounted for."""
        while self._in_flight:
            self._land()

    def wait(self) -> None:
        """Returns when all steps are done."""
        with self._clock.spend("step"):
            jax.block_until_ready([metrics for _, metrics in self._in_flight])

    def evaluated(self, step: int, metrics: dict[str, float]) -> None:
        if metrics:
            self._log.write(step, metrics)
            self._show.evaluated(step, metrics)

    def _land(self) -> None:
        step, metrics = self._in_flight.popleft()
        with self._clock.spend("step"):
            values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        self.step = step
        self._window.add(values)
        if values["skipped"]:
            loss = values["total"] / max(values["weight"], 1.0)
            self._show.tell(self._skipped.note(step, loss, values["grad_norm"], int(values["skipped_in_a_row"])))
        if self._is_logged(step):
            self._write_window(step, values["learning_rate"])
        self._goodput.update(step)

    def _is_logged(self, step: int) -> bool:
        return step % self._log_period == 0 or step == self._train_steps

    def _write_window(self, step: int, learning_rate: float) -> None:
        trained = self._trained_seconds()
        means = self._window.means(max(trained - self._window_start, 1e-9))
        self._window, self._window_start = _Window(), trained
        if self._utilisation.due(trained):
            self.wait()
            with self._clock.spend("other"):
                self._utilisation.find_peak()
        mfu = self._utilisation.mfu(means["steps_per_second"])
        metrics = {
            **means,
            **({} if mfu is None else {"mfu": mfu}),
            "learning_rate": learning_rate,
            **{name: step * a_step for name, a_step in self._epochs.items()},
        }
        self._log.write(step, metrics)
        self._show.trained(step, metrics)

    def _trained_seconds(self) -> float:
        """Training and waiting for data: what compiles, evaluates and saves does not slow the pace."""
        seconds = self._clock.seconds()
        return seconds["step"] + seconds["data_wait"]


class _Window:
    """Sums metrics since the last log; steps that were skipped count as steps and in `skipped` alone."""

    def __init__(self):
        self._steps = 0
        self._sums: dict[str, float] = {}

    def add(self, values: dict[str, float]) -> None:
        self._steps += 1
        counted = {"skipped": 1.0} if values["skipped"] else values | {"counted": 1.0}
        for name, value in counted.items():
            self._sums[name] = self._sums.get(name, 0.0) + value

    def means(self, seconds: float) -> dict[str, float]:
        """Means a target token, and a step for `grad_norm`; of the steps that counted. `seconds`: of training.

        Tokens are those of inputs and targets that are not padding.
        """
        sums = self._sums
        means = {"skipped": sums.get("skipped", 0.0), "steps_per_second": self._steps / seconds}
        if "counted" in sums:
            tokens = max(sums["weight"], 1.0)
            means |= {
                "loss": sums["total"] / tokens,
                "cross_entropy": sums["cross_entropy"] / tokens,
                "z_loss": sums["z_loss"] / tokens,
                "accuracy": sums["correct"] / tokens,
                "input_tokens": sums["input_tokens"],
                "target_tokens": sums["weight"],
                "grad_norm": sums["grad_norm"] / sums["counted"],
                "tokens_per_second": (sums["input_tokens"] + sums["weight"]) / seconds,
            }
        return means
