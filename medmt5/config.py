"""gin, and nothing else: the one module that knows it. Files and `--gin.X=Y` become one object, or one clear error.

A run file binds the fields of a dataclass (`train.Experiment`); `build` checks what can be checked without importing
anything (`configuration`), parses, makes that object, and refuses every binding nobody consumed: gin itself accepts a
misspelt macro or scope silently. A `.gin` file is code: it may import any module. Treat one from elsewhere as you would
a script.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util  # noqa: F401  gin 0.5.0 uses it without importing it
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gin import config as gin
from medmt5.configuration.check import check_configuration
from medmt5.configuration.statements import GIN_ROOT
from medmt5.errors import InputError

_MACRO = "gin.macro"


@dataclasses.dataclass(frozen=True)
class Built:
    """What `build` returns: the object and the text of every binding that made it."""

    value: Any
    resolved: str


def build(
    selector: str,
    gin_files: Sequence[str],
    bindings: Sequence[str] = (),
    search_paths: Sequence[str] = (),
    placeholders: Mapping[str, str] | None = None,
) -> Built:
    """Returns the configurable `selector` (as gin files name it, e.g. "train.Experiment"), called with what was bound.

    Args:
      gin_files: paths, later ones win; looked for as given, in `search_paths` and beside the package (`gin/recipe/…`).
      bindings: "NAME = value" lines, applied last; see `statements.parse_flags`.
      placeholders: macro -> gin value for those that are required and that nothing sets.

    Raises:
      InputError: a file that is missing or does not parse, an unknown name, an unset required macro, a binding that
    nothing uses.
    """
    check_configuration(selector, gin_files, bindings, search_paths, placeholders or ())
    gin.clear_config()
    for path in (*search_paths, str(GIN_ROOT)):
        gin.add_config_file_search_path(path)
    with _quiet_gin(), _explained(gin_files):
        gin.parse_config_files_and_bindings(list(gin_files), list(bindings), finalize_config=False)
        for name in sorted(_unset_macros() & (placeholders or {}).keys()):
            gin.parse_config(f"{name} = {(placeholders or {})[name]}")
        gin.finalize()
    with _explained(gin_files):
        value = gin.get_configurable(selector)()
    _refuse_leftovers()
    return Built(value, gin.config_str())


def _used(scope: str, name: str) -> bool:
    """A configurable called in scope a/b takes bindings of "", "a" and "a/b"; a macro's name is a scope too."""
    return any(name == n and (not scope or f"{s}/".startswith(f"{scope}/")) for s, n in gin._OPERATIVE_CONFIG)


def _refuse_leftovers() -> None:
    """Of what is not ours, `check_configuration` cannot say what calls it: here it is known."""
    left = [key for key in gin._CONFIG if not _used(*key)]
    if left:
        names = ", ".join(scope if name == _MACRO else f"{scope}/{name}".strip("/") for scope, name in left)
        raise InputError(f"nothing uses {names}: not part of this run, or misspelt")


@contextlib.contextmanager
def _explained(gin_files: Sequence[str]) -> Iterator[None]:
    """Turns gin's exceptions into one line; errors of our own classes keep their words."""
    try:
        yield
    except InputError as error:
        raise InputError(str(error).split("\n  In call to configurable")[0]) from error  # gin's own addition
    except (ValueError, TypeError, RuntimeError, SyntaxError, OSError, AttributeError, ImportError) as error:
        text = " ".join(str(error).split("\n  In call to configurable")[0].split())
        raise InputError(f"{', '.join(gin_files)}: {text}") from error


def _unset_macros() -> set[str]:
    return {
        scope
        for (scope, name), values in gin._CONFIG.items()
        if name == _MACRO and repr(values.get("value")) == "%gin.REQUIRED"  # a macro itself, until it is evaluated
    }


@contextlib.contextmanager
def _quiet_gin() -> Iterator[None]:
    """gin logs "Path not found" as an error, on the root logger, before it finds a file through a search path."""
    logger = logging.getLogger()
    level, logger.level = logger.level, logging.CRITICAL
    try:
        yield
    finally:
        logger.level = level
