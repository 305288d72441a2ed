"""A trace of a few steps, for TensorBoard, XProf or Perfetto: `MODEL_DIR/profile`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import jax

FIRST_STEP = 10
"""Steps of the run before the trace begins: compilation, first transfers and cold caches are not what is asked for."""


class Profile:
    """Traces `num_steps` steps of a run, from its eleventh on, or as many as it has left.

    Args:
      directory: where the trace goes.
      num_steps: 0 = none.
      start_step, train_steps: of the run; a short run is traced to its end.
    """

    def __init__(self, directory: Path, num_steps: int, start_step: int, train_steps: int):
        self._directory = directory
        self._first = min(start_step + FIRST_STEP, max(train_steps - num_steps, start_step + 1))
        self._end = min(self._first + num_steps, train_steps)
        self._running = False

    def step(self, step: int, wait: Callable[[], None]) -> AbstractContextManager:
        """Returns the context in which `step` is to be dispatched; starts and ends the trace.

        `wait` returns when the devices are done with what was dispatched: the trace holds whole steps and no others.
        """
        if not self._first <= step < self._end:
            self.stop(wait)
            return nullcontext()
        if not self._running:
            wait()
            jax.profiler.start_trace(str(self._directory))
            self._running = True
        return jax.profiler.StepTraceAnnotation("train_step", step_num=step)

    def stop(self, wait: Callable[[], None]) -> None:
        """Ends the trace if one is running."""
        if self._running:
            wait()
            jax.profiler.stop_trace()
            self._running = False
