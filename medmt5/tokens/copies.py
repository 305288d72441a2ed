"""Token stores on object stores: the copy of what a mixture needs, on this machine's disk, checked by sha256.

ArrayRecord is read from a disk alone, and its random access would be a request an example. A copy is made once a
machine and version of a store; what a training reads of it is then as fast as anywhere.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection
from pathlib import Path

from medmt5 import storage
from medmt5.errors import InputError
from medmt5.tokens.mixture import Mixture, mixture_file
from medmt5.tokens.store import MANIFEST, manifest_sha256s


def has_mixture(root: str | Path, mixture: str) -> bool:
    """Returns whether the mixture's file lies in a folder of token stores, on a disk or a store."""
    storage.check(root)
    if not storage.is_url(root):
        return mixture_file(Path(root), mixture).is_file()
    return mixture_file(Path(), mixture).as_posix() in storage.list_objects(str(root))


def fetch_stores(root: str | Path, mixture: str, splits: Collection[str]) -> Path:
    """Returns the folder to read token stores from: `root` on a disk; of a store its copy, with all that `splits` of
    the mixture need, and the manifests of the tasks' other splits.

    Raises InputError for a token store that is unfinished (files, but no manifest) or not as its manifest says.
    """
    storage.check(root)
    if not storage.is_url(root):
        return Path(root)
    url = str(root).rstrip("/")
    there = storage.list_objects(url)
    file = mixture_file(Path(), mixture).as_posix()
    if file in there:
        tasks = [task for task, _ in Mixture.read(storage.fetch(url, [file]), mixture).tasks]
    elif any(name.startswith(f"{mixture}/") for name in there):
        tasks = [mixture]
    else:
        raise InputError(
            f"no mixture or task {mixture} in {url}; make it: medmt5 tokens --mixture {mixture} --token_store {url} …"
        )
    parts = {name.rpartition("/")[0] for name in there if name.partition("/")[0] in tasks and name.count("/") == 2}
    for part in sorted(parts):
        if f"{part}/{MANIFEST}" not in there and part.partition("/")[2] in splits:
            raise InputError(
                f"{url}/{part} is unfinished: it has no {MANIFEST}, which is written last; it is being written, or the "
                f"writing was interrupted: medmt5 tokens --mixture {mixture} --token_store {url} … makes it"
            )
    manifests = [f"{part}/{MANIFEST}" for part in sorted(parts) if f"{part}/{MANIFEST}" in there]
    folder = storage.fetch(url, manifests)
    for task in tasks:  # what was there once, and is not any more, must not be found
        for old in (folder / task).glob("*/"):
            if f"{task}/{old.name}" not in parts:
                shutil.rmtree(old)
    sha256s: dict[str, str] = {}
    for manifest in manifests:
        part = manifest.rpartition("/")[0]
        if part.partition("/")[2] in splits:
            try:
                files = manifest_sha256s(json.loads((folder / manifest).read_text(encoding="utf-8")))
            except (ValueError, KeyError, TypeError):
                continue  # `TokenStore` says what is wrong with it
            sha256s |= {f"{part}/{name}": sha256 for name, sha256 in files.items()}
    storage.fetch(url, sha256s.keys(), sha256s)
    return folder
