"""`medmt5 data get`: fetches the files of a data set that their owners offer at stable addresses, and checks each.

A file appears under its name when it is whole and has the declared sha256, never before.
"""

from __future__ import annotations

import hashlib
import http.client
import urllib.request
import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn

from medmt5.datasets.declarations import LabelledDataset
from medmt5.errors import InputError

MAX_BYTES = 64 << 20  # of one file; the largest declared one has 2 MB
CHUNK_BYTES = 1 << 16
TIMEOUT_SECONDS = 60


def get(dataset: LabelledDataset, folder: Path) -> None:
    """Fetches what is not there yet of the data set's files to their places below `folder`; prints the licence first.

    Raises:
      InputError: nothing is offered at a stable address; no connection; another file than declared, or one too large.
    """
    console = Console(stderr=True)
    console.print(f"{dataset.name}. Licence: {dataset.licence}. Homepage: {dataset.homepage}", highlight=False)
    if not dataset.downloads:
        raise InputError(f"{dataset.name} has no stable address; to get it: {dataset.get}")
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        for download in dataset.downloads:
            for name, sha256 in download.sha256.items():
                file = folder / download.folder / name
                if file.is_file() and _sha256(file) == sha256:
                    console.print(f"there already: {file}", highlight=False, soft_wrap=True)
                    continue
                task = bar.add_task(name, total=None)
                fetch(download.url + name, file, sha256, partial(_show, bar, task))
                console.print(f"fetched: {file}", highlight=False, soft_wrap=True)
    console.print(f"How the whole set is got: {dataset.get}", highlight=False, soft_wrap=True)


def fetch(url: str, file: Path, sha256: str, advance: Callable[[int, int | None], object]) -> None:
    """Writes what is at `url` to `file`, if its digest is `sha256`; `advance(bytes so far, bytes in all)` is told."""
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_name(f".{file.name}.{uuid.uuid4().hex}.part")
    digest, done = hashlib.sha256(), 0
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as answer, unfinished.open("wb") as out:
            total = int(answer.headers.get("Content-Length") or 0) or None
            while chunk := answer.read(CHUNK_BYTES):
                done += len(chunk)
                if max(done, total or 0) > MAX_BYTES:
                    raise InputError(
                        f"{url} has more than {MAX_BYTES:,} bytes, which no declared file has; not fetched"
                    )
                digest.update(chunk)
                out.write(chunk)
                advance(done, total)
        if digest.hexdigest() != sha256:
            raise InputError(
                f"{url} is not the declared file: its sha256 is {digest.hexdigest()}, not {sha256}; not kept. Try "
                "again; if it stays so, the owners changed it, or somebody else did"
            )
        unfinished.replace(file)
    except (OSError, http.client.HTTPException) as error:
        raise InputError(
            f"{url} could not be fetched: {error}; check the connection, or put the file at {file}"
        ) from error
    finally:
        unfinished.unlink(missing_ok=True)


def _show(bar: Progress, task: TaskID, done: int, total: int | None) -> None:
    bar.update(task, completed=done, total=total)


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
