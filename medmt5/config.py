"""gin, and nothing else: the one module that knows it. Files and `--gin.X=Y` become one object, or one clear error.

A run file binds the fields of a dataclass (`train.Experiment`); `build` parses, makes that object, and refuses every
binding nobody consumed: gin itself accepts a misspelt macro or scope silently. A `.gin` file is code: it may import any
module. Treat one from elsewhere as you would a script.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import importlib.util  # noqa: F401  gin 0.5.0 uses it without importing it
import logging
import re
import tokenize
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gin import config as gin
from gin import config_parser
from medmt5.errors import InputError

REPOSITORY = Path(__file__).resolve().parent.parent
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
      bindings: "NAME = value" lines, applied last; see `parse_flags`.
      placeholders: macro -> gin value for those that are required and that nothing sets.

    Raises:
      InputError: a file that is missing or does not parse, an unknown name, an unset required macro, a binding that
    nothing uses.
    """
    if not gin_files:
        raise InputError("no configuration; give --gin_file=FILE, e.g. --gin_file=gin/recipe/tiny_pretrain.gin")
    gin.clear_config()
    paths = [*search_paths, str(REPOSITORY)]
    for path in paths:
        gin.add_config_file_search_path(path)
    for name in gin_files:
        if not any((Path(root) / name).is_file() for root in ["", *paths]):
            raise InputError(f"no such gin file: {name} (looked in {', '.join(['the current folder', *paths])})")
    with _quiet_gin(), _explained(gin_files):
        gin.parse_config_files_and_bindings(list(gin_files), list(bindings), finalize_config=False)
        for name in sorted(_unset_macros() & (placeholders or {}).keys()):
            gin.parse_config(f"{name} = {(placeholders or {})[name]}")
        gin.finalize()
    known_macros = _bound_macros()
    with _explained(gin_files):
        value = gin.get_configurable(selector)()
    _refuse_leftovers(known_macros, bindings)
    return Built(value, gin.config_str())


def parse_flags(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Splits `--gin.NAME=VALUE` from other arguments; returns (bindings, others).

    A VALUE that is no gin literal, macro or reference is taken as a string, so that a shell needs no inner quotes:

    >>> parse_flags(["--gin.TRAIN_STEPS=10", "--gin.MODEL_DIR=/runs/a", "--gin.train/x.y=%Z", "--debug"])
    (['TRAIN_STEPS = 10', "MODEL_DIR = '/runs/a'", 'train/x.y = %Z'], ['--debug'])
    """
    bindings, others = [], []
    for argument in arguments:
        match = re.fullmatch(r"--gin\.([^=]+)=(.*)", argument, flags=re.DOTALL)
        if match is None:
            others.append(argument)
            continue
        name, value = match.groups()
        bindings.append(f"{name} = {value if _is_gin_value(value) else repr(value)}")
    return bindings, others


def _is_gin_value(value: str) -> bool:
    if value.startswith(("%", "@")):
        return True
    try:
        config_parser.ConfigParser(f"x = {value}", _NoReferences()).parse_statement()
    except (SyntaxError, ValueError):
        return False
    return True


class _NoReferences(config_parser.ParserDelegate):
    """Lets a value be parsed without looking anything up."""

    def configurable_reference(self, scoped_configurable_name, evaluate):
        return scoped_configurable_name

    def macro(self, macro_name):
        return macro_name


def _bound_macros() -> set[str]:
    return {scope for scope, name in gin._CONFIG if name == _MACRO}


def _refuse_leftovers(macros: set[str], bindings: Sequence[str]) -> None:
    used = gin._OPERATIVE_CONFIG
    problems = []
    for scope, name in gin._CONFIG:
        # A configurable called in scope a/b takes bindings of "", "a" and "a/b"; a macro's name is a scope too.
        if any(name == n and (not scope or f"{s}/".startswith(f"{scope}/")) for s, n in used):
            continue
        if name == _MACRO:
            used_macros = sorted(macros & {s for s, n in used if n == _MACRO})
            problems.append(f"nothing uses the macro {scope}{_did_you_mean(scope, used_macros)}")
        else:
            where = f"{scope}/{name}" if scope else name
            values = ", ".join(gin._CONFIG[scope, name])
            problems.append(f"nothing uses {where} ({values}): it is not part of this run, or its scope is misspelt")
    if problems:
        raise InputError("; ".join(problems))


def _did_you_mean(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]}?" if near else f"; the macros of this run are {', '.join(known)}"


@contextlib.contextmanager
def _explained(gin_files: Sequence[str]) -> Iterator[None]:
    """Turns gin's exceptions into one line; errors of our own classes keep their words."""
    try:
        yield
    except InputError as error:
        raise InputError(str(error).split("\n  In call to configurable")[0]) from error  # gin's own addition
    except tokenize.TokenError as error:
        raise InputError(
            f"{', '.join(gin_files)}: {error.args[0]}: a bracket or quote is not closed in a file or a flag"
        ) from error
    except (ValueError, TypeError, RuntimeError, SyntaxError, OSError, AttributeError, ImportError) as error:
        text = " ".join(str(error).split("\n  In call to configurable")[0].split())
        missing = sorted(_unset_macros())
        if missing:
            flags = " ".join(f"--gin.{name}=…" for name in missing)
            raise InputError(f"{', '.join(gin_files)}: required macros are not set; add {flags}") from error
        undefined = re.search(r"Macro '?(\w+)'? not", text) or re.search(r"No value.*macro.*'(\w+)'", text)
        if undefined:
            text += _did_you_mean(undefined.group(1), sorted(_bound_macros()))
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
