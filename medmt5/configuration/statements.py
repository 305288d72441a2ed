"""gin files and flags as a list of statements, each with its place. gin's own parser reads them; nothing is imported.

gin itself imports the modules that a file names while it parses, and so pays for JAX before it finds a misspelt word.
"""

from __future__ import annotations

import dataclasses
import re
import tokenize
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from gin import config_parser
from medmt5.errors import InputError

PACKAGE = Path(__file__).resolve().parent.parent
# Where gin/ is: beside the package in the repository, inside it where pip has copied it (setup.py).
GIN_ROOT = PACKAGE if (PACKAGE / "gin").is_dir() else PACKAGE.parent
BRACKETS_AND_QUOTES = tuple("{[('\"")


@dataclasses.dataclass(frozen=True)
class Macro:
    """%name, as a value."""

    name: str


@dataclasses.dataclass(frozen=True)
class Reference:
    """@scope/selector, as a value; `called` with () after it."""

    scope: str
    selector: str
    called: bool


@dataclasses.dataclass(frozen=True)
class Statement:
    """A line of a configuration.

    Attributes:
      place: "file:line", or the flag.
      context: the file, or "" for flags: a file's imports hold in that file alone.
    """

    place: str
    context: str


@dataclasses.dataclass(frozen=True)
class Binding(Statement):
    """scope/selector.parameter = value; without a parameter the selector is a macro."""

    scope: str
    selector: str
    parameter: str
    value: Any


@dataclasses.dataclass(frozen=True)
class Import(Statement):
    """`module` is bound to `name`; `from __gin__ import dynamic_registration` is one, too."""

    module: str
    name: str


@dataclasses.dataclass(frozen=True)
class Block(Statement):
    """selector: and indented bindings, which follow."""

    selector: str


def read_statements(
    gin_files: Sequence[str], bindings: Sequence[str] = (), search_paths: Sequence[str] = ()
) -> list[Statement]:
    """Returns the statements of the files, their includes in place, and of the "NAME = value" lines, in gin's order.

    Raises:
      InputError: a file that is not there or does not parse, with file and line.
    """
    if not gin_files:
        raise InputError("no configuration; give --gin_file=FILE, e.g. --gin_file=gin/recipe/tiny_pretrain.gin")
    roots = [*search_paths, str(GIN_ROOT)]
    statements: list[Statement] = []
    for name in gin_files:
        statements += _read_file(name, roots, "", ())
    for binding in bindings:
        place = f"--gin.{binding.partition('=')[0].strip()}"
        statements += (_converted(s, place, "") for s in _parsed(binding, place))
    return statements


def parse_flags(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Splits `--gin.NAME=VALUE` from other arguments; returns (bindings, others).

    A VALUE that is no gin literal, macro or reference is taken as a string, so that a shell needs no inner quotes; one
    that begins like a literal and is none is refused:

    >>> parse_flags(["--gin.TRAIN_STEPS=10", "--gin.MODEL_DIR=/runs/a", "--gin.train/x.y=%Z", "--debug"])
    (['TRAIN_STEPS = 10', "MODEL_DIR = '/runs/a'", 'train/x.y = %Z'], ['--debug'])
    """
    bindings, others = [], []
    for argument in arguments:
        match = re.fullmatch(r"--gin\.([^=]+)=(.*)", argument, flags=re.DOTALL)
        if match is None:
            if argument.startswith("--gin."):
                raise InputError(f"{argument} sets nothing; write {argument}=VALUE, with no blank around the =")
            others.append(argument)
            continue
        name, value = match.groups()
        literal = value.startswith(("%", "@", *BRACKETS_AND_QUOTES)) or _is_literal(value)
        bindings.append(f"{name} = {value if literal else repr(value)}")
    return bindings, others


def _is_literal(value: str) -> bool:
    try:
        config_parser.ConfigParser(f"x = {value}", _Values()).parse_statement()
    except (SyntaxError, ValueError, tokenize.TokenError):
        return False
    return bool(value.strip())


class _Values(config_parser.ParserDelegate):
    """Makes values without looking anything up."""

    def configurable_reference(self, scoped_configurable_name, evaluate):
        scope, _, selector = scoped_configurable_name.rpartition("/")
        return Reference(scope, selector, evaluate)

    def macro(self, macro_name):
        return Macro(macro_name)


def _read_file(name: str, roots: Sequence[str], included_at: str, within: tuple[str, ...]) -> Iterator[Statement]:
    path = next((path for root in ("", *roots) if (path := Path(root) / name).is_file()), None)
    if path is None:
        advice = _files_like(name, roots) or f"looked in {', '.join(['the current folder', *roots])}"
        raise InputError(f"{included_at}no such gin file: {name} ({advice})")
    if str(path) in within:
        raise InputError(f"{included_at}{name} includes itself: {' -> '.join([*within, str(path)])}")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{name} is no text in UTF-8, so no gin file: {error}") from error
    for statement in _parsed(text, name):
        place = f"{name}:{statement.location.line_num}"
        if isinstance(statement, config_parser.IncludeStatement):
            yield from _read_file(statement.filename, roots, f"{place}: ", (*within, str(path)))
        else:
            yield _converted(statement, place, name)


def _files_like(name: str, roots: Sequence[str]) -> str:
    folders = [folder for root in ("", *roots) if (folder := (Path(root) / name).parent).is_dir()]
    names = {path.name for folder in folders for path in folder.glob("*.gin")}
    near = get_close_matches(Path(name).name, names, n=1)
    return f"did you mean {Path(name).parent / near[0]}?" if near else ""


def _parsed(text: str, name: str) -> Iterator[Any]:
    """Yields gin's statements of a file's text, or of a flag's."""
    is_flag = name.startswith("--gin.")
    try:
        yield from config_parser.ConfigParser(text, _Values())
    except tokenize.TokenError as error:
        line = "" if is_flag else f":{error.args[1][0]}"
        raise InputError(f"{name}{line}: a bracket or quote is not closed: {_last_line(text)}") from error
    except SyntaxError as error:
        location = error.args[1] if len(error.args) > 1 else None
        line = "" if is_flag or not location else f":{location[1]}"
        content = str(location[3]).strip() if location else text
        advice = ""
        if "Failed to parse token" in error.args[0]:
            word = error.args[0].rpartition("'")[0].rpartition("'")[2]
            advice = f"; a string needs quotes: '{word.strip()}'"
        elif "Unable to parse value" in error.args[0] or content.count("'") % 2 or content.count('"') % 2:
            advice = "; is a quote, a bracket or a value missing?"
        raise InputError(f"{name}{line}: cannot be read: {content}{advice}") from error
    except ValueError as error:
        raise InputError(f"{name}: cannot be read: {' '.join(str(error).split())}") from error


def _last_line(text: str) -> str:
    return text.strip().splitlines()[-1].strip() if text.strip() else ""


def _converted(statement: Any, place: str, context: str) -> Statement:
    match statement:
        case config_parser.BindingStatement():
            return Binding(place, context, statement.scope, statement.selector, statement.arg_name, statement.value)
        case config_parser.ImportStatement():
            module = statement.module if statement.is_from or statement.alias else statement.module.split(".")[0]
            return Import(place, context, module, statement.bound_name())
        case config_parser.BlockDeclaration():
            return Block(place, context, statement.selector)
    raise InputError(f"{place}: a file can include another one, a flag cannot")
