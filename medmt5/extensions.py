"""Languages, data sets and mixtures of the user's own are TOML files below $MEDMT5_EXTENSIONS."""

from __future__ import annotations

import os
from pathlib import Path

from medmt5.errors import InputError

ENVIRONMENT_VARIABLE = "MEDMT5_EXTENSIONS"


def find_toml(folder: Path, kind: str) -> dict[str, Path]:
    """Returns name -> file, sorted by name, of `folder`/*.toml and of $MEDMT5_EXTENSIONS/`kind`/*.toml, if that is set.

    Raises:
      InputError: the variable names no folder, or a file in it has the name of one in `folder`. What the package
        declares keeps its meaning, so that a published task is the same for everybody.
    """
    files = {path.stem: path for path in folder.glob("*.toml")}
    for name, path in own_toml(kind).items():
        if name in files:
            raise InputError(f"{path}: medmt5 has {name!r} in {kind} already; give the file another name")
        files[name] = path
    return dict(sorted(files.items()))


def own_toml(kind: str) -> dict[str, Path]:
    """Returns name -> file, sorted by name, of $MEDMT5_EXTENSIONS/`kind`/*.toml; nothing where that is not set.

    Raises InputError where the variable names no folder.
    """
    root = os.environ.get(ENVIRONMENT_VARIABLE)
    if not root:
        return {}
    if not Path(root).is_dir():
        raise InputError(
            f"{ENVIRONMENT_VARIABLE} must name a folder of languages/*.toml, datasets/*.toml and mixtures/*.toml, not "
            f"{root!r}"
        )
    return {path.stem: path for path in sorted((Path(root).absolute() / kind).glob("*.toml"))}
