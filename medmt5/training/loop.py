"""The training loop: evaluate, save, draw, step, in this order.

Evaluation and saving come before the batch of a step is drawn and on the state before its update, so a checkpoint of
step n holds exactly what a run that stops at n has seen. The first checkpoint is the start itself, the last one the
end; SIGTERM and Ctrl-C save where it stands (`preemption`).
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax

from medmt5.checkpoints.manager import CheckpointManager
from medmt5.errors import InputError
from medmt5.training.metrics_log import MetricsLog
from medmt5.training.preemption import Preempted, Preemption
from medmt5.training.step import TrainState


@dataclasses.dataclass(frozen=True)
class Periods:
    """Steps between logging, evaluating and saving."""

    log: int
    evaluate: int
    checkpoint: int


def run_loop(
    state: TrainState,
    *,
    start_step: int,
    train_steps: int,
    train_step: Callable[[TrainState, Any], tuple[TrainState, dict[str, jax.Array]]],
    batches: Iterator[Any],
    evaluate: Callable[[TrainState], dict[str, float]],
    learning_rate: Callable[[int], float],
    checkpoints: CheckpointManager,
    data_state: Callable[[int], dict[str, Any]],
    log: MetricsLog,
    periods: Periods,
    report: Callable[[int, dict[str, float]], None],
) -> TrainState:
    """Trains from `start_step` to `train_steps` and returns the last state, saved.

    Args:
      batches: batches of step start_step, start_step + 1, …, already on the devices.
      evaluate: state -> metrics of the dev split.
      data_state: step -> what is saved beside the state.
      report: called with (step, metrics) for a person to see.

    Raises:
      InputError: the loss is no longer finite; the last checkpoint is kept.
      Preempted: a signal came; the state of that step is saved.
      SaveError: a checkpoint could not be written; the one before it is kept.
    """
    window = _Window()
    with Preemption() as preemption:
        for step in range(start_step, train_steps):
            if step % periods.evaluate == 0 and (step > start_step or step == 0):
                _write(log, report, step, evaluate(state))
            stop = preemption.requested(step)
            if step % periods.checkpoint == 0 or stop:
                checkpoints.save(step, state, data_state(step))
            if stop:
                checkpoints.wait()
                raise Preempted(step, preemption.signal)
            checkpoints.check()
            state, metrics = train_step(state, next(batches))
            window.add(metrics)
            if (step + 1) % periods.log == 0 or step + 1 == train_steps:
                means = window.means()
                _check_finite(means, step + 1, periods.log)
                _write(log, report, step + 1, {**means, "learning_rate": float(learning_rate(step))})
        if start_step < train_steps:  # a run started again when all was done has evaluated its end before
            _write(log, report, train_steps, evaluate(state))
        checkpoints.save(train_steps, state, data_state(train_steps))
        checkpoints.wait()
    return state


class _Window:
    """Sums metrics since the last log, on the device: reading a value would wait for the step."""

    def __init__(self):
        self._sums: dict[str, jax.Array] | None = None
        self._steps = 0
        self._start = time.perf_counter()

    def add(self, metrics: dict[str, jax.Array]) -> None:
        self._sums = metrics if self._sums is None else _add(self._sums, metrics)
        self._steps += 1

    def means(self) -> dict[str, float]:
        assert self._sums is not None
        sums = {name: float(value) for name, value in jax.device_get(self._sums).items()}
        seconds = time.perf_counter() - self._start
        tokens = max(sums["weight"], 1.0)
        means = {
            "loss": sums["total"] / tokens,
            "cross_entropy": sums["cross_entropy"] / tokens,
            "z_loss": sums["z_loss"] / tokens,
            "accuracy": sums["correct"] / tokens,
            "target_tokens": sums["weight"],
            "grad_norm": sums["grad_norm"] / self._steps,
            "steps_per_second": self._steps / seconds,
        }
        self.__init__()  # type: ignore[misc]
        return means


_add = jax.jit(lambda a, b: jax.tree.map(lambda x, y: x + y, a, b))


def _write(
    log: MetricsLog, report: Callable[[int, dict[str, float]], None], step: int, metrics: dict[str, float]
) -> None:
    if metrics:
        log.write(step, metrics)
        report(step, metrics)


def _check_finite(metrics: dict[str, float], step: int, period: int) -> None:
    if not math.isfinite(metrics["loss"]) or not math.isfinite(metrics["grad_norm"]):
        raise InputError(
            f"the loss is {metrics['loss']}, the gradient norm {metrics['grad_norm']} between steps "
            f"{max(0, step - period)} and {step}; "
            "lower LEARNING_RATE or raise WARMUP_STEPS, and start the command again to go on from the last checkpoint"
        )
