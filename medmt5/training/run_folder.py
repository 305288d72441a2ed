"""Where the files of a run are written: MODEL_DIR itself, or, of one on an object store, a folder of this machine that
is put there as it grows.

Checkpoints go to the store by themselves (`checkpoints.object_store`). The rest is small and appended to, which a store
does not know: every `RENEW_SECONDS`, before each checkpoint and at the end, every file that changed is put whole. What
comes before a checkpoint is on the store before it, so a run that goes on elsewhere finds all lines up to there.
"""

from __future__ import annotations

import logging
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import jax

from medmt5 import storage
from medmt5.checkpoints.lease import RENEW_SECONDS, Lease
from medmt5.checkpoints.ownership import LOCK, owning
from medmt5.errors import InputError

GONE_ON_WITH = ("metrics.jsonl", "goodput.jsonl", "skipped_steps.jsonl")
logger = logging.getLogger(__name__)


class RunFolder(NamedTuple):
    """`path`: of this machine's disk. `publish()` puts what changed where it belongs; it raises InputError when another
    run has taken MODEL_DIR.
    """

    path: Path
    publish: Callable[[], None]


@contextmanager
def open_run_folder(model_dir: str) -> Iterator[RunFolder]:
    """Holds MODEL_DIR while the block runs. Raises InputError naming the holder when another run has it."""
    if not storage.is_url(model_dir):
        storage.check(model_dir)
        with owning(Path(model_dir)):
            yield RunFolder(Path(model_dir), lambda: None)
        return
    url = model_dir.rstrip("/")
    path = storage.cache_root() / "runs" / storage.copy_of(url).relative_to(storage.cache_root() / "copies")
    with owning(path):
        if jax.process_index() == 0:
            with _Publisher(path, url) as publisher:
                yield RunFolder(path, publisher.publish)
        else:
            yield RunFolder(path, lambda: None)
            if (path / "profile").is_dir():  # of this process's devices
                storage.put(path, url, [name for name in storage.files_in(path) if name.startswith("profile/")])


class _Publisher:
    """Renews the lease and puts files on the store, in a thread, until the block ends."""

    def __init__(self, path: Path, url: str):
        self._path, self._url = path, url
        self._lease = Lease(url, path)
        self._there: dict[str, tuple[int, int]] = {}
        self._one_at_a_time, self._end = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="publish", daemon=True)

    def publish(self) -> None:
        with self._one_at_a_time:
            self._lease.check()
            self._put_changed()

    def __enter__(self) -> _Publisher:
        self._lease.take()
        for old in self._path.iterdir():  # of a run before; the store knows better
            if old.name not in (LOCK, ".holder"):
                shutil.rmtree(old) if old.is_dir() else old.unlink()
        there = storage.list_objects(self._url)
        copy = storage.fetch(self._url, names := [name for name in GONE_ON_WITH if name in there])
        for name in names:
            shutil.copyfile(copy / name, self._path / name)
        self._there = storage.files_in(self._path)
        self._thread.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        self._end.set()
        self._thread.join()
        try:
            self.publish()
            self._lease.release()
        except InputError as failure:
            if error is None:
                raise
            logger.error("%s", failure)  # what ended the block is what the user must hear of first

    def _run(self) -> None:
        while not self._end.wait(RENEW_SECONDS):
            try:
                with self._one_at_a_time:
                    self._lease.renew()
                    self._put_changed()
            except InputError as error:  # tried again; before the next save it must succeed
                logger.warning("%s", error)

    def _put_changed(self) -> None:
        now = storage.files_in(self._path)
        changed = [name for name in now if now[name] != self._there.get(name) and name != LOCK]
        storage.put(self._path, self._url, changed)
        self._there = now
