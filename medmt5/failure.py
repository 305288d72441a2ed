"""One process of several fails: the others are told which and why, and all end with the same exit code.

Without this they would wait for it: in a collective that never ends, at Orbax's barrier (20 minutes), for JAX's missed
heartbeats (100 seconds). The first failure is a key in the store of JAX's coordinator. The process that fails writes
it; a thread of every other one looks for it once a second, prints it and leaves: at once, because the main thread may
be in compiled code for ever. A checkpoint that is being written is lost; finished ones are not touched.

A process that is killed writes nothing. The others notice when a collective with it breaks, at the next step, because
its kernel closes its connections; when it was process 0, JAX ends them (SIGABRT). What closes no connection (a host
without power, a stopped process) is left to JAX's heartbeats: a shorter limit than their 100 seconds would end healthy
runs whose host was only paused, and save little of what a restart takes.
"""

from __future__ import annotations

import atexit
import errno
import json
import os
import re
import sys
import threading
import time
from traceback import print_exception
from typing import Any, NoReturn

import jax

from medmt5.errors import InputError

EXIT_BUG = 1
EXIT_INPUT = 2
EXIT_NOT_SAVED = 74  # EX_IOERR of sysexits.h
EXIT_LOST = 75  # EX_TEMPFAIL, as after a second signal: start the same command again
EXIT_INTERRUPTED = 130
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)
LOOK_SECONDS = 1.0
FAREWELL_SECONDS = 5.0  # how long process 0, which holds the store, waits for the others to have read it
_FAILURE, _TOLD = "medmt5/failure", "medmt5/told"


class SaveError(InputError):
    """A checkpoint could not be written: a full disk, most often."""


def exit_code(error: BaseException) -> int:
    """Returns the exit code of a training that ended with `error` (docs/training.md)."""
    if isinstance(error, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    if isinstance(error, SaveError) or (isinstance(error, OSError) and error.errno in _FULL):
        return EXIT_NOT_SAVED
    return EXIT_INPUT if isinstance(error, InputError | OSError) else EXIT_BUG


class SharedFailure:
    """What ended the first of several processes, and with it all.

    Args:
      store: JAX's client of the coordinator.
      index, count: which process this is, and how many there are.
    """

    def __init__(self, store: Any, index: int, count: int):
        self._store, self._index, self._count = store, index, count
        self._ending = threading.Lock()  # taken by the thread that prints and leaves, and never given back
        self._finished = threading.Event()
        self._thread = threading.Thread(target=self._look, name="failure", daemon=True)
        self._thread.start()
        atexit.register(self._finish)  # before JAX's own, which takes the store away

    def end(self, error: BaseException, code: int, message: str, traceback: bool = False) -> NoReturn:
        """Prints `message`, tells the others, and leaves with `code`; if another one failed before, with its code.

        The message of a bug has its traceback, others if wanted. An error that comes from a broken connection means
        that another process ended without a word: `EXIT_LOST`.
        """
        self._ending.acquire()
        broken = _broken_connection(error)
        if broken:
            code, message = EXIT_LOST, f"another process is gone (killed? see its log): {_first_line(str(broken))}"
        elif code == EXIT_BUG:
            message = f"{type(error).__name__}: {_first_line(message)}"
        first = self._publish({"process": self._index, "code": code, "message": message})
        mine = first["process"] == self._index
        try:
            if traceback or (code == EXIT_BUG and not broken):
                print_exception(error)
            if mine or not broken:
                _say(message)
            if not mine and first["message"] != message:
                _say(_explain(first))
        finally:  # nobody may be reading
            self._leave(first["code"])

    def _look(self) -> None:
        while not self._finished.wait(LOOK_SECONDS):
            try:
                first = self._read()
            except jax.errors.JaxRuntimeError:  # process 0 is gone, and JAX ends this process for it
                return
            if first is not None:
                self._ending.acquire()
                try:
                    _say(_explain(first))
                finally:
                    self._leave(first["code"])

    def _read(self) -> dict[str, Any] | None:
        found = dict(self._store.key_value_dir_get(_FAILURE))
        return json.loads(next(iter(found.values()))) if found else None

    def _publish(self, mine: dict[str, Any]) -> dict[str, Any]:
        """Returns the first failure of all: `mine`, unless there is one."""
        try:
            self._store.key_value_set(f"{_FAILURE}/first", json.dumps(mine))
        except jax.errors.JaxRuntimeError:  # there is one, or process 0 is gone
            try:
                return self._read() or mine
            except jax.errors.JaxRuntimeError:
                pass
        return mine

    def _leave(self, code: int) -> NoReturn:
        try:
            self._store.key_value_set(f"{_TOLD}/{self._index}", "")
            late = time.monotonic() + FAREWELL_SECONDS
            while self._index == 0 and len(self._store.key_value_dir_get(_TOLD)) < self._count:
                if time.monotonic() > late:
                    break
                time.sleep(0.05)
        except jax.errors.JaxRuntimeError:  # process 0 is gone: nobody is left to tell
            pass
        try:
            sys.stdout.flush()
        finally:
            os._exit(code)

    def _finish(self) -> None:
        self._finished.set()
        self._thread.join()


def _broken_connection(error: BaseException | None) -> BaseException | None:
    """Returns the error of a collective, `error` itself or what it was raised from; None if there is none."""
    while error is not None:
        if isinstance(error, jax.errors.JaxRuntimeError) and re.search("gloo|nccl", str(error), re.IGNORECASE):
            return error
        error = error.__cause__
    return None


def _explain(first: dict[str, Any]) -> str:
    return f"stopped with process {first['process']}, which failed: {first['message']}"


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0][:300]


def _say(text: str) -> None:
    print(f"medmt5 train: {text}", file=sys.stderr, flush=True)
