"""What our modules define, from their syntax trees: names, parameters, annotations. Nothing is imported."""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).resolve().parent.parent
ROOT = PACKAGE.name


@dataclasses.dataclass(frozen=True)
class Parameter:
    """`annotation` is its source, "" where there is none."""

    annotation: str
    required: bool


@dataclasses.dataclass(frozen=True)
class Signature:
    """`open`: takes parameters of any name."""

    parameters: Mapping[str, Parameter]
    open: bool = False


def find_module(name: str) -> Path | None:
    """Returns the file of one of our modules or packages ("medmt5.training.step"), None if there is none."""
    path = PACKAGE.parent.joinpath(*name.split("."))
    return next((f for f in (path.with_suffix(".py"), path / "__init__.py") if f.is_file()), None)


def module_names(package: str) -> list[str]:
    """Returns the modules directly in one of our packages."""
    folder = PACKAGE.parent.joinpath(*package.split("."))
    return sorted(p.stem for p in folder.iterdir() if p.suffix == ".py" or (p / "__init__.py").is_file())


@cache
def signatures(module: str) -> dict[str, Signature | None]:
    """Returns name -> signature of a module's functions and classes; None for what it imports or computes."""
    file = find_module(module)
    assert file is not None
    found: dict[str, Signature | None] = {}
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        match node:
            case ast.FunctionDef():
                found[node.name] = _of_function(node)
            case ast.ClassDef():
                found[node.name] = _of_class(node)
            case ast.Import() | ast.ImportFrom():
                found |= {alias.asname or alias.name.split(".")[0]: None for alias in node.names}
            case ast.Assign():
                found |= {target.id: None for target in node.targets if isinstance(target, ast.Name)}
    return found


def _of_function(node: ast.FunctionDef, skip: int = 0) -> Signature:
    args = node.args
    positional = [*args.posonlyargs, *args.args]
    without_default = len(positional) - len(args.defaults)
    required = [i < without_default for i in range(len(positional))] + [d is None for d in args.kw_defaults]
    names = [*positional, *args.kwonlyargs]
    parameters = {
        a.arg: Parameter(ast.unparse(a.annotation) if a.annotation else "", r)
        for a, r in zip(names[skip:], required[skip:], strict=True)
    }
    return Signature(parameters, open=args.kwarg is not None)


def _of_class(node: ast.ClassDef) -> Signature:
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and item.name == "__init__":
            return _of_function(item, skip=1)
    fields = {
        item.target.id: Parameter(ast.unparse(item.annotation), item.value is None)
        for item in node.body
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
    }
    return Signature(fields, open=bool(node.bases))  # what a base class takes is not followed


def accepts(annotation: str, value: Any) -> bool:
    """Returns whether a literal may be of the annotated type; True for annotations that are no plain types.

    >>> accepts("int | None", 3), accepts("int", 3.0), accepts("float", 3), accepts("optax.Schedule", 3)
    (True, False, True, True)
    """
    return _accepts(ast.parse(annotation, mode="eval").body, value) if annotation else True


def _accepts(node: ast.expr, value: Any) -> bool:
    match node:
        case ast.BinOp(left, ast.BitOr(), right):
            return _accepts(left, value) or _accepts(right, value)
        case ast.Constant(None):
            return value is None
        case ast.Name("bool"):
            return isinstance(value, bool)
        case ast.Name("int"):
            return isinstance(value, int) and not isinstance(value, bool)
        case ast.Name("float"):
            return isinstance(value, int | float) and not isinstance(value, bool)
        case ast.Name("str"):
            return isinstance(value, str)
        case ast.Subscript(ast.Name("dict"), ast.Tuple([key, item])):
            return isinstance(value, dict) and all(_accepts(key, k) and _accepts(item, v) for k, v in value.items())
    return True
