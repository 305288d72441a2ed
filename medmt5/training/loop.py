"""The training loop: evaluate, save, draw, step, in this order.

Evaluation and saving come before the batch of a step is drawn and on the state before its update, so a checkpoint of
step n holds exactly what a run that stops at n has seen. The first checkpoint is the start itself, the last one the
end; SIGTERM and Ctrl-C save where it stands (`preemption`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax

from medmt5.checkpoints.manager import CheckpointManager
from medmt5.training.goodput import Clock
from medmt5.training.monitor import Monitor
from medmt5.training.preemption import Preempted, Preemption
from medmt5.training.profile import Profile
from medmt5.training.step import TrainState


@dataclasses.dataclass(frozen=True)
class Periods:
    """Steps between evaluating and saving."""

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
    checkpoints: CheckpointManager,
    data_state: Callable[[int], dict[str, Any]],
    periods: Periods,
    monitor: Monitor,
    clock: Clock,
    profile: Profile,
    saved: Callable[[TrainState], TrainState] = lambda state: state,
) -> TrainState:
    """Trains from `start_step` to `train_steps` and returns the last state, saved.

    Args:
      batches: batches of step start_step, start_step + 1, …, already on the devices.
      evaluate: state -> metrics of the dev split.
      data_state: step -> what is saved beside the state.
      monitor: is told of every step and evaluation.
      clock: what the time is spent on.
      saved: state -> the part of it that checkpoints hold.

    Raises:
      InputError: too many steps in a row were skipped; the last checkpoint is kept.
      Preempted: a signal came; the state of that step is saved.
      SaveError: a checkpoint could not be written; the one before it is kept.
    """

    def evaluate_now(step: int) -> None:
        # The steps before it are landed first: their lines come first, and waiting for them is not evaluating.
        monitor.land()
        with clock.spend("evaluation"):
            metrics = evaluate(state)
        monitor.evaluated(step, metrics)

    def save_now(step: int, finish: bool = False) -> None:
        # Landed first: a run that has to stop because of a step before this one stops before it saves.
        monitor.land()
        with clock.spend("save"):
            checkpoints.save(step, saved(state), data_state(step))
            if finish:
                checkpoints.wait()

    with Preemption() as preemption:
        for step in range(start_step, train_steps):
            if step % periods.evaluate == 0 and (step > start_step or step == 0):
                evaluate_now(step)
            stopping = preemption.requested(step)  # asked once: a signal between saving and stopping would lose a save
            if step % periods.checkpoint == 0 or stopping:
                save_now(step, finish=stopping)
            if stopping:
                raise Preempted(step, preemption.signal)
            checkpoints.check()
            with clock.spend("data_wait"):
                batch = next(batches)
            # The first call traces and compiles before it dispatches; all others only dispatch.
            with profile.step(step, monitor.wait), clock.spend("compile" if step == start_step else "step"):
                state, metrics = train_step(state, batch)
            monitor.dispatched(step + 1, metrics)
        profile.stop(monitor.wait)
        if start_step < train_steps:  # a run started again when all was done has evaluated its end before
            evaluate_now(train_steps)
        save_now(train_steps, finish=True)
    return state
