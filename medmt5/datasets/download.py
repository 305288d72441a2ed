"""`medmt5 data get`: fetches the files of a data set that their owners offer at stable addresses, and checks each."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn

from medmt5.datasets.declarations import LabelledDataset
from medmt5.download import fetch, is_file_with
from medmt5.errors import InputError


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
                if is_file_with(file, sha256):
                    console.print(f"there already: {file}", highlight=False, soft_wrap=True)
                    continue
                task = bar.add_task(name, total=None)
                fetch(download.url + name, file, sha256, partial(_show, bar, task))
                console.print(f"fetched: {file}", highlight=False, soft_wrap=True)
    console.print(f"How the whole set is got: {dataset.get}", highlight=False, soft_wrap=True)


def _show(bar: Progress, task: TaskID, done: int, total: int | None) -> None:
    bar.update(task, completed=done, total=total)
