"""One writer a MODEL_DIR: `MODEL_DIR/lock`, held by the process that trains there.

The lock is the kernel's (flock), not the file: it goes when the process does, SIGKILL included, and what a dead one
left in the file does not matter. The file says who holds it. Of the processes of one run, the first one takes it.

Where it holds: processes of one machine, on any local disk; NFS from Linux 2.6.12 on, whose server keeps flocks of all
clients. Where it does not: object stores mounted as folders (gcsfuse and the like keep flocks a machine), so there two
machines are not kept apart. A file system that has no locks at all is warned of, and used.
"""

from __future__ import annotations

import datetime
import errno
import fcntl
import json
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax

from medmt5.errors import InputError

LOCK = "lock"
logger = logging.getLogger(__name__)


@contextmanager
def owning(model_dir: Path) -> Iterator[None]:
    """Holds `model_dir`, made if missing, for this process while the block runs.

    Raises InputError naming the holder when another process has it.
    """
    if jax.process_index() != 0:
        yield
        return
    model_dir.mkdir(parents=True, exist_ok=True)
    path = model_dir / LOCK
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    # Programs that this process starts do not inherit the descriptor; a fork without a program must not keep it either.
    forks = _Forks(descriptor)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"{model_dir} is being trained in by {_holder(path)}; wait for it, stop it, or give another MODEL_DIR"
            ) from None
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
                raise
            logger.warning("%s is on a file system without locks: make sure that no other run writes there", model_dir)
        facts = {"host": socket.gethostname(), "pid": os.getpid(), "since": _now()}
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, (json.dumps(facts) + "\n").encode(), 0)
        yield
    finally:
        forks.forget()
        os.close(descriptor)  # the lock goes with it


class _Forks:
    """Closes a descriptor in every forked child: a lock lives as long as any copy of its descriptor."""

    def __init__(self, descriptor: int):
        self._descriptor: int | None = descriptor
        os.register_at_fork(after_in_child=self._close)  # cannot be undone, hence `forget`

    def _close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def forget(self) -> None:
        self._descriptor = None


def _holder(path: Path) -> str:
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        return f"process {facts['pid']} on {facts['host']} since {facts['since']}"
    except (OSError, ValueError, KeyError, TypeError):  # it has just been taken, and says so in a moment
        return "another process"


def _now() -> str:
    return datetime.datetime.now().astimezone().isoformat(timespec="seconds")
