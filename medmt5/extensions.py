"""Languages and data sets are TOML files: those of the package, and the user's own below $MEDMT5_EXTENSIONS."""

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
    if root := os.environ.get(ENVIRONMENT_VARIABLE):
        if not Path(root).is_dir():
            raise InputError(
                f"{ENVIRONMENT_VARIABLE} must name a folder of languages/*.toml and datasets/*.toml, not {root!r}"
            )
        for path in (Path(root).absolute() / kind).glob("*.toml"):
            if path.stem in files:
                raise InputError(f"{path}: medmt5 has {path.stem!r} in {kind} already; give the file another name")
            files[path.stem] = path
    return dict(sorted(files.items()))
