"""Finds what is wrong in a configuration without importing what it names: in tenths of a second, with file and line.

What needs a value to be computed (shapes, files, devices) is checked later, by what computes it. Modules that are not
ours are known by name alone, and what they define is believed.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Collection, Iterable, Iterator, Sequence
from difflib import get_close_matches
from typing import Any

from medmt5.configuration.signatures import ROOT, Signature, accepts, find_module, module_names, signatures
from medmt5.configuration.statements import Binding, Block, Import, Macro, Reference, Statement, read_statements
from medmt5.errors import InputError

REQUIRED = Macro("gin.REQUIRED")
DYNAMIC = "__gin__.dynamic_registration"
# gin values of the macros that say where things are, not how large they are.
PLACEHOLDERS = {
    "MODEL_DIR": "'unset'",
    "TOKEN_STORE": "'unset'",
    "VOCABULARY": "'unset'",
    "MIXTURE_OR_TASK_NAME": "'unset'",
    "INITIAL_CHECKPOINT_PATH": "None",
}


def check_configuration(
    selector: str,
    gin_files: Sequence[str],
    bindings: Sequence[str] = (),
    search_paths: Sequence[str] = (),
    placeholders: Collection[str] = (),
) -> dict[str, Any]:
    """Raises InputError, with every problem and its place, where `config.build` of the same arguments would fail.

    Returns parameter -> value of what `selector` is called with, of those that are plain literals.

    Args:
      selector: what will be called, e.g. "train.Experiment".
      placeholders: macros that may stay unset.
    """
    checked, root = _Configuration(read_statements(gin_files, bindings, search_paths)), f"{ROOT}.{selector}"
    problems = checked.problems or checked.find_misuse(root, placeholders)
    if problems:
        raise InputError("; ".join(dict.fromkeys(problems)))
    values = {b.parameter: checked.follow(b)[1] for (_, name, _), b in checked.bound.items() if name == root}
    return {name: value for name, value in values.items() if _is_literal(value)}


def suggest(name: str, known: Iterable[str], otherwise: str = "") -> str:
    """Returns "; did you mean …?" for the nearest known name, or `otherwise`."""
    near = get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else otherwise


class _Configuration:
    """The bindings that hold at the end, with selectors as whole names ("medmt5.training.schedules.cosine").

    `problems` are those of single statements.
    """

    def __init__(self, statements: Sequence[Statement]):
        self.problems: list[str] = []
        self.macros: dict[str, Binding] = {}
        self.bound: dict[tuple[str, str, str], Binding] = {}  # (scope, whole name, parameter)
        self._imports: dict[str, dict[str, str]] = {}  # file -> name -> module
        self._dynamic: set[str] = set()
        self._named: set[str] = set()  # whole names met so far; flags and files without imports may use these
        self._references: dict[tuple[str, str], str] = {}  # (file, selector) -> whole name
        for statement in statements:
            try:
                self._read(statement)
            except InputError as error:
                self.problems.append(f"{statement.place}: {error}")

    def _read(self, statement: Statement) -> None:
        match statement:
            case Import():
                self._import(statement)
            case Block():
                self._resolve(statement.selector, statement)
            case Binding():
                self._bind(statement)

    def _import(self, statement: Import) -> None:
        if statement.module == DYNAMIC:
            self._dynamic.add(statement.context)
            return
        self._imports.setdefault(statement.context, {})[statement.name] = statement.module
        package, _, name = statement.module.rpartition(".")
        if statement.module.split(".")[0] != ROOT:
            if importlib.util.find_spec(statement.module.split(".")[0]) is None:
                raise InputError(
                    f"there is no module {statement.module}; if it is yours, name its folder: PYTHONPATH=FOLDER"
                )
        elif not find_module(statement.module) and not (find_module(package) and name in signatures(package)):
            known = module_names(package) if find_module(package) else []
            raise InputError(f"{package} has no module {name}{suggest(name, known)}")

    def _bind(self, b: Binding) -> None:
        for value in _walk(b.value):
            if isinstance(value, Reference):
                self._resolve(value.selector, b)
        if not b.parameter:
            self.macros[f"{b.scope}/{b.selector}" if b.scope else b.selector] = b
            return
        whole = self._resolve(b.selector, b)
        signature = _signature(whole)
        if signature and not signature.open and b.parameter not in signature.parameters:
            known = suggest(b.parameter, signature.parameters, f"; it takes {', '.join(signature.parameters)}")
            raise InputError(f"{b.selector} has no parameter {b.parameter}{known}")
        self.bound[b.scope, whole, b.parameter] = b

    def _resolve(self, selector: str, at: Statement) -> str:
        """Returns the whole name of a selector; raises InputError for one that names nothing."""
        imports = self._imports.get(at.context, {})
        first, _, rest = selector.partition(".")
        if first == "gin":
            return selector
        if at.context in self._dynamic:
            if first not in imports:
                known = suggest(first, imports, f"; imported are {', '.join(imports) or 'none'}")
                raise InputError(f"no line of this file imports {first} of {selector}{known}")
            whole = f"{imports[first]}.{rest}" if rest else imports[first]
        else:
            matches = [n for n in self._named if n == selector or n.endswith(f".{selector}")]
            if len(matches) > 1:
                raise InputError(f"{selector} may be {' or '.join(sorted(matches))}; write more of the name")
            if not matches and any(m.split(".")[0] != ROOT for i in self._imports.values() for m in i.values()):
                return selector  # another's module may have registered it
            if not matches:
                raise InputError(self._unknown(selector))
            whole = matches[0]
        module, name = _split(whole)
        defined = signatures(module) if module else {}
        if name and module and name.split(".")[0] not in defined:
            public = [n for n, s in defined.items() if s and not n.startswith("_")]
            raise InputError(f"{module} has no {name}{suggest(name, public, '; it has ' + ', '.join(public))}")
        self._named.add(whole)
        self._references[at.context, selector] = whole
        return whole

    def _unknown(self, selector: str) -> str:
        text = f"no gin file of this run names {selector}"
        module, _, name = selector.rpartition(".")
        for imported in {m for imports in self._imports.values() for m in imports.values()}:
            if module and f".{imported}".endswith(f".{module}") and name in signatures(imported):
                package, _, short = imported.rpartition(".")
                return f"{text}, and a flag imports nothing; name it in one, after `from {package} import {short}`"
        known = {".".join(n.split(".")[-2:]) for n in self._named}
        return text + suggest(selector, known, f"; known are {', '.join(sorted(known))}")

    def find_misuse(self, root: str, placeholders: Collection[str]) -> list[str]:
        """Returns the problems of the whole: macros unset or unused, bindings of nothing, values of another type."""
        if not any(name == root for _, name, _ in self.bound):
            needed = root.removeprefix(f"{ROOT}.")
            return [f"no file of this run sets up {needed}; include gin/run/pretrain.gin or gin/run/finetune.gin"]
        used, live, missing = self._reached(root)
        problems = []
        unset = [name for name, b in self.macros.items() if b.value == REQUIRED and name in used]
        if flags := [f"--gin.{name}=…" for name in sorted(unset) if name not in placeholders]:
            problems.append(f"required macros are not set; add {' '.join(flags)}")
        undefined = [
            f"{b.place}: nothing defines the macro {name}{suggest(name, self.macros)}"
            for name, b in used.items()
            if name not in self.macros
        ]
        if undefined:  # what such a macro would have used, nothing uses
            return problems + undefined
        for name, b in self.macros.items():
            if name not in used:
                known = f"; the macros of this run are {', '.join(sorted(used))}"
                problems.append(f"{b.place}: nothing uses the macro {name}{suggest(name, used, known)}")
        for (scope, whole, parameter), b in self.bound.items():
            if (scope, whole) not in live and _signature(whole) is not None:
                where = f"{scope}/{b.selector}" if scope else b.selector
                problems.append(
                    f"{b.place}: nothing uses {where}.{parameter}: it is not part of this run, or its scope is misspelt"
                )
        problems += missing
        return problems or list(self._wrong_types(live))

    def _reached(self, root: str) -> tuple[dict[str, Binding], set[tuple[str, str]], list[str]]:
        """Walks from `root` over values to what they call.

        Returns (macro -> where it is used first, (scope, name) of bindings in force, calls that lack a parameter).
        """
        used: dict[str, Binding] = {}
        live: set[tuple[str, str]] = set()
        missing: list[str] = []
        # What is not ours may call configurables by itself: all that is bound of it is believed to be used.
        waiting = [("", root), *((scope, name) for scope, name, _ in self.bound if _signature(name) is None)]
        seen: set[tuple[str, str]] = set()
        while waiting:
            scope, whole = waiting.pop()
            if (scope, whole) in seen:
                continue
            seen.add((scope, whole))
            values = []
            given = set()
            for (s, name, parameter), b in self.bound.items():
                # A configurable called in scope a/b takes bindings of "", "a" and "a/b".
                if name == whole and (not s or f"{scope}/".startswith(f"{s}/")):
                    live.add((s, name))
                    given.add(parameter)
                    values.append(b)
            for b in values:
                waiting += self._called(b.value, b, scope, used)
            if signature := _signature(whole):
                lacks = [n for n, p in signature.parameters.items() if p.required and n not in given]
                if lacks and not signature.open:
                    missing.append(
                        f"{whole} is called without {', '.join(lacks)}; bind {whole.split('.')[-1]}.{lacks[0]}"
                    )
        return used, live, missing

    def _called(self, value: Any, at: Binding, scope: str, used: dict[str, Binding]) -> Iterator[tuple[str, str]]:
        for item in _walk(value):
            if isinstance(item, Reference):
                yield item.scope or scope, self._references.get((at.context, item.selector), item.selector)
            elif isinstance(item, Macro) and item != REQUIRED and item.name not in used:
                used[item.name] = at
                if b := self.macros.get(item.name):
                    yield from self._called(b.value, b, scope, used)

    def follow(self, b: Binding) -> tuple[Binding, Any]:
        """Returns where the value of a binding is written, behind macros, and that value."""
        while isinstance(b.value, Macro) and b.value.name in self.macros:
            b = self.macros[b.value.name]
        return b, b.value

    def _wrong_types(self, live: set[tuple[str, str]]) -> Iterator[str]:
        for (scope, whole, parameter), b in self.bound.items():
            signature = _signature(whole)
            if (scope, whole) not in live or not signature or parameter not in signature.parameters:
                continue
            at, value = self.follow(b)
            name = at.selector if at is not b else f"{b.selector}.{parameter}"
            annotation = signature.parameters[parameter].annotation
            if _is_literal(value) and not accepts(annotation, value):
                advice = _advice(annotation, name, value)
                yield f"{at.place}: {name} must be {_in_words(annotation)}, not {value!r}{advice}"


def _advice(annotation: str, name: str, value: Any) -> str:
    types = annotation.split(" | ")
    if "str" in types and not isinstance(value, str):
        return f"""; write --gin.{name}="'{value}'\""""
    if "int" in types and isinstance(value, float) and value.is_integer():
        return f"; write {int(value)}"
    if "bool" in types and str(value).lower() in ("true", "false", "0", "1"):
        return f"; write {str(value).lower() in ('true', '1')}"
    return ""


def _in_words(annotation: str) -> str:
    words = {"int": "a whole number", "float": "a number", "str": "a string", "bool": "True or False"}
    if annotation == "dict[str, int]":
        return "like {'inputs': 512, 'targets': 114}"
    return " or ".join(words.get(part, part) for part in annotation.split(" | "))


def _signature(whole: str) -> Signature | None:
    module, name = _split(whole)
    return signatures(module).get(name) if module else None


def _split(whole: str) -> tuple[str, str]:
    """Returns (our module, the rest) of a whole name; ("", "") for others'."""
    parts = whole.split(".")
    if parts[0] == ROOT:
        for end in range(len(parts), 0, -1):
            if find_module(module := ".".join(parts[:end])):
                return module, ".".join(parts[end:])
    return "", ""


def _is_literal(value: Any) -> bool:
    return not any(isinstance(item, Macro | Reference) for item in _walk(value))


def _walk(value: Any) -> Iterator[Any]:
    match value:
        case dict():
            for pair in value.items():
                yield from _walk(list(pair))
        case list() | tuple():
            for item in value:
                yield from _walk(item)
        case _:
            yield value
