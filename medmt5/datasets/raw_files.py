"""Finds the raw files of a data set below the data directory. They lie as their owners lay them, a folder a set.

The data directory is the folder that holds those folders, or one that holds it under the name `benchmarks`.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from medmt5.datasets.declarations import LabelledDataset
from medmt5.datasets.declarations.declaration import Form
from medmt5.errors import InputError

DATA_DIR = "MEDMT5_DATA_DIR"


@dataclass(frozen=True)
class RawFiles:
    """What is there of one data set in one language.

    Attributes:
      form: in which it is there.
      paths: part -> file or folder, perhaps inside an archive; a part that is not there is left out.
      listed: the file that names the documents of "train", if the form has one.
    """

    form: Form
    paths: Mapping[str, Path]
    listed: Path | None

    def digest(self) -> str:
        """Returns a digest of the names and contents of all files."""
        content = hashlib.sha256()
        for part, path in [*self.paths.items(), ("listed", self.listed)]:
            for file in _files(path) if path else ():
                with file.open("rb") as stream:
                    digest = hashlib.file_digest(stream, "sha256").hexdigest()
                content.update(f"{part} {file.name} {digest}\n".encode())
        return content.hexdigest()


def data_folder(folder: str | os.PathLike | None = None) -> Path:
    """Returns the data directory: `folder`, or $MEDMT5_DATA_DIR; InputError if neither is given."""
    folder = folder or os.environ.get(DATA_DIR)
    if not folder:
        raise InputError(f"set {DATA_DIR} to the folder of the raw data sets, or give --data_dir")
    inner = Path(folder) / "benchmarks"
    return inner if inner.is_dir() else Path(folder)


def find_files(dataset: LabelledDataset, lang: str, folder: Path) -> RawFiles:
    """Returns what is there, in the form of which most parts are there."""
    found = [_find(form, lang, folder) for form in dataset.forms_of(lang)]
    return max(found, key=lambda files: len(files.paths))  # the first of equals


def require_files(dataset: LabelledDataset, lang: str, folder: Path) -> RawFiles:
    """Returns what is there; only a test may be missing, which some owners hold back, but not all parts.

    Raises:
      InputError: another part is missing.
    """
    files = find_files(dataset, lang, folder)
    missing = [part for part in dataset.parts if part not in files.paths]
    if not set(missing) <= {"test"} or not files.paths:
        raise InputError(
            f"{where_to_put(dataset, lang, missing[0], files.form, folder)}, or set {DATA_DIR} (now {folder}) to the "
            "folder that holds the data sets"
        )
    return files


def where_to_put(dataset: LabelledDataset, lang: str, part: str, form: Form, folder: Path) -> str:
    """Returns the advice for a part that is missing."""
    place = folder / form.places(part, lang)[0]
    return f"{place} is missing, a part of {dataset.name}.{lang} ({dataset.homepage}); to get it: {dataset.get}"


def _find(form: Form, lang: str, folder: Path) -> RawFiles:
    paths = {}
    for part in form.files:
        for place in form.places(part, lang):
            if _is_there(folder / place):
                paths[part] = folder / place
                break
    listed = folder / form.listed if form.listed else None
    if listed and not listed.is_file():
        paths = {}
    return RawFiles(form, paths, listed)


def _is_there(path: Path) -> bool:
    """Whether there is such a file or folder, or an archive that it would be in."""
    return path.exists() or _archive(path) is not None


def _archive(path: Path) -> Path | None:
    return next((parent for parent in path.parents if parent.is_file()), None)


def _files(path: Path) -> Iterator[Path]:
    if path.is_dir():
        yield from sorted(file for file in path.rglob("*") if file.is_file())
    else:
        yield _archive(path) or path
