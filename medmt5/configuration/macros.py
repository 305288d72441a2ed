"""What `medmt5 train --help` says of recipes and macros: read from gin/, where each macro is defined and commented."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from medmt5.configuration.statements import GIN_ROOT

_MACRO = re.compile(r"([A-Z][A-Z0-9_]*) = (?!@)(.+?)(?:\s+# (.*))?")
FOLDERS = ("run", "model", "mesh")


def recipes(root: Path = GIN_ROOT) -> dict[str, str]:
    """Returns path -> first line of the header, of the files in gin/recipe."""
    return {
        str(path.relative_to(root)): path.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")
        for path in sorted((root / "gin/recipe").glob("*.gin"))
    }


def macros(root: Path = GIN_ROOT) -> dict[str, tuple[dict[str, str], list[str]]]:
    """Returns name -> ({file: default, a gin value}, different comments) of the macros that a run can set."""
    found: dict[str, tuple[dict[str, str], list[str]]] = {}
    for folder in FOLDERS:
        # train.gin, which the others of gin/run include, comes first.
        for path in sorted((root / "gin" / folder).glob("*.gin"), key=lambda p: (p.stem != "train", p)):
            for line in path.read_text(encoding="utf-8").splitlines():
                if match := _MACRO.fullmatch(line):
                    name, value, comment = match.groups()
                    defaults, comments = found.setdefault(name, ({}, []))
                    defaults[path.stem] = value
                    if comment and comment not in comments:
                        comments.append(comment)
    return found


def describe_configuration(root: Path = GIN_ROOT) -> str:
    """Returns the part of `medmt5 train --help` about gin files."""
    lines = ["recipes, for --gin_file (looked for in the current folder, --gin_search_paths and beside medmt5):"]
    lines += _table([(path, header) for path, header in recipes(root).items()])
    lines += ["", "macros, for --gin.NAME=VALUE (a string needs no inner quotes), and their defaults:"]
    lines += _table(
        [(name, f"[{_defaults(values)}] {'; '.join(told)}") for name, (values, told) in macros(root).items()]
    )
    lines += ["", "any parameter: --gin.module.function.parameter=VALUE, as in the resolved MODEL_DIR/config.gin"]
    return "\n".join(lines)


def _defaults(by_file: dict[str, str]) -> str:
    groups: dict[str, list[str]] = {}
    for file, value in by_file.items():
        groups.setdefault("required" if value == "%gin.REQUIRED" else value, []).append(file)
    if len(groups) == 1:
        return next(iter(groups))
    return ", ".join(f"{' '.join(files)}: {value}" for value, files in groups.items())


def _table(rows: list[tuple[str, str]]) -> Iterator[str]:
    width = max(len(name) for name, _ in rows) if rows else 0
    return (f"  {name:<{width}}  {text}".rstrip() for name, text in rows)
