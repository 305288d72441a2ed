"""What Orbax and its event loop print beside the one message that says what happened and what to do."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from absl import logging as absl_logging


@cache
def silence_stragglers() -> None:
    """When one array of a checkpoint cannot be read or written, Orbax raises its error and ends its event loop. Of each
    array that is still under way then, Python prints a traceback, after the message that says what happened and what to
    do: that its loop is closed, or that nobody asked for its own error. These two reports are dropped.
    """
    print_others = sys.unraisablehook

    def report(unraisable: sys.UnraisableHookArgs) -> None:
        error = unraisable.exc_value
        if not (isinstance(error, RuntimeError) and str(error) == "Event loop is closed"):
            print_others(unraisable)

    sys.unraisablehook = report
    logging.getLogger("asyncio").addFilter(_was_asked_for)


def _was_asked_for(record: logging.LogRecord) -> bool:
    return "exception was never retrieved" not in record.getMessage()  # of a Task, a Future, a gathering of them


@contextmanager
def quiet_orbax() -> Iterator[None]:
    """Orbax warns about a metadata file that only a CheckpointManager of several items would look for."""
    level = absl_logging.get_verbosity()
    absl_logging.set_verbosity(absl_logging.ERROR)
    try:
        yield
    finally:
        absl_logging.set_verbosity(level)
