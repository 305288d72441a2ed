"""Signals that end a run: the first one saves and leaves, a second one leaves at once.

    a first SIGTERM (a scheduler wants the machine)   the step is finished, the state saved: exit 143
    a first SIGINT (Ctrl-C)                           the same: exit 130
    any second one                                    nothing more is saved: exit 75

Of several processes, JAX's coordination service listens for SIGTERM and makes all stop at one step; a process that
gets SIGINT sends itself SIGTERM. So either signal to any of them saves all.

A second signal must work while the main thread waits in compiled code (a long step, a compilation, a save), where
Python runs no signal handler. So the interpreter's C handler writes signal numbers to a pipe, and a thread reads them.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import TracebackType

import jax
from jax.experimental import multihost_utils

SIGNALS = (signal.SIGTERM, signal.SIGINT)
EXIT_UNSAVED = 75  # EX_TEMPFAIL of sysexits.h: start the same command again


class Preempted(Exception):
    """The run was told to stop, and its state is saved; the same command goes on from there.

    `exit_code` is what a shell calls death by that signal, 128 + its number: 143 for SIGTERM, 130 for SIGINT.
    """

    def __init__(self, step: int, number: int = signal.SIGTERM):
        super().__init__(
            f"stopped by {signal.Signals(number).name}; everything up to step {step} is saved. "
            "The same command goes on from there."
        )
        self.step = step
        self.exit_code = 128 + number


class Preemption:
    """Notes signals instead of dying of them, while it is entered (only the main thread may)."""

    def __init__(self) -> None:
        self.signal: int = signal.SIGTERM
        self._noted = False
        self._alone = jax.process_count() == 1
        self._signals = SIGNALS if self._alone else (signal.SIGINT,)

    def requested(self, step: int) -> bool:
        """Returns whether to save before `step` and stop; the same answer in every process. To be asked once a step."""
        if not self._alone:
            return multihost_utils.reached_preemption_sync_point(step)
        return self._noted

    def __enter__(self) -> Preemption:
        self._previous: dict[int, object] = {}
        if threading.current_thread() is threading.main_thread():
            self._reader, self._writer = os.pipe()
            os.set_blocking(self._writer, False)
            threading.Thread(target=self._listen, args=(self._reader,), name="signals", daemon=True).start()
            self._previous_writer = signal.set_wakeup_fd(self._writer)
            self._previous = {number: signal.signal(number, _do_nothing) for number in self._signals}
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._previous:
            for number, handler in self._previous.items():
                signal.signal(number, handler)  # type: ignore[arg-type]
            signal.set_wakeup_fd(self._previous_writer)
            os.close(self._writer)  # ends the thread

    def _listen(self, reader: int) -> None:
        while numbers := os.read(reader, 16):
            for number in numbers:
                if number not in self._signals:
                    continue
                name = signal.Signals(number).name
                if self._noted:
                    _say(f"{name} again: leaving at once, without saving. The last finished checkpoint stays good.")
                    os._exit(EXIT_UNSAVED)
                self.signal, self._noted = number, True
                if not self._alone:
                    os.kill(os.getpid(), signal.SIGTERM)
                _say(f"{name}: finishing the step and saving; once more leaves at once, without saving.")
        os.close(reader)


def _say(text: str) -> None:
    print(f"\nmedmt5 train: {text}", file=sys.stderr, flush=True)


def _do_nothing(*_: object) -> None:
    """Python's part of the signal; the work is done by `_listen`."""
