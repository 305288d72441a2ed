"""One writer a MODEL_DIR on an object store: `MODEL_DIR/lock`, an object that its holder writes anew while it lives.

A store has no locks that go with a process. So whoever finds the object watches it: one that does not change for
`EXPIRES_SECONDS` belongs to a run that is dead, and is taken over; a run on the same machine, whose flock of the copy
(`ownership`) tells that the other one is gone, does so at once. Clocks of machines are not compared.

It is created only where there is none (a conditional write, which S3 and GCS have). Two runs that take over a dead
one's within the same moment may both go on; one of them finds the other's name when it next looks, which it does before
each save, and stops. A run that was cut off for longer than that stops in the same way when it is back.
"""

from __future__ import annotations

import datetime
import json
import logging
import os
import socket
import time
import uuid
from pathlib import Path
from typing import Any

from medmt5 import storage
from medmt5.errors import InputError

LOCK = "lock"
RENEW_SECONDS = 30
EXPIRES_SECONDS = 4 * RENEW_SECONDS
LOOK_SECONDS = 3
logger = logging.getLogger(__name__)


class Lease:
    """The right to write to `url`.

    Args:
      copy: this machine's folder of it, whose flock is held: what another run from here left is nobody's.
    """

    def __init__(self, url: str, copy: Path):
        self._url, self._object = url, f"{url}/{LOCK}"
        name = copy / ".holder"
        if not name.is_file():
            name.write_text(uuid.uuid4().hex, encoding="utf-8")
        self._facts: dict[str, Any] = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "since": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
            "holder": name.read_text(encoding="utf-8"),
            "renewed": 0,
        }

    def take(self) -> None:
        """Returns when the lease is held; waits for that of a run that may be dead.

        Raises InputError naming the holder when another run has it.
        """
        found = self._read()
        if found is not None and found.get("holder") != self._facts["holder"]:
            self._outlive(found)
        with storage.opened(self._url) as store:
            if found is not None and self._read() is not None:
                store.rm_file(self._object)
            try:
                store.pipe_file(self._object, self._content(), mode="create")
            except FileExistsError:
                raise self._taken(self._read() or {}) from None

    def renew(self) -> None:
        """Raises InputError when another run has taken it meanwhile."""
        self.check()
        self._facts["renewed"] += 1
        with storage.opened(self._url) as store:
            store.pipe_file(self._object, self._content())

    def check(self) -> None:
        found = self._read()
        if found is None or (found.get("holder"), found.get("pid")) != (self._facts["holder"], self._facts["pid"]):
            raise self._taken(found or {})

    def release(self) -> None:
        with storage.opened(self._url) as store:
            store.rm_file(self._object)

    def _outlive(self, found: dict[str, Any]) -> None:
        logger.warning(
            "%s was being trained in by %s; waiting up to %d s to see whether it lives",
            self._url, _holder(found), EXPIRES_SECONDS,
        )  # fmt: skip
        end = time.monotonic() + EXPIRES_SECONDS
        while time.monotonic() < end:
            time.sleep(LOOK_SECONDS)
            now = self._read()
            if now is None:
                return
            if now != found:
                raise self._taken(now)
        logger.warning("it does not: its place is taken")

    def _read(self) -> dict[str, Any] | None:
        with storage.opened(self._url) as store:
            try:
                return json.loads(store.cat_file(self._object))
            except FileNotFoundError:
                return None
            except ValueError:
                return {}

    def _content(self) -> bytes:
        return (json.dumps(self._facts) + "\n").encode()

    def _taken(self, found: dict[str, Any]) -> InputError:
        return InputError(
            f"{self._url} is being trained in by {_holder(found)}; wait for it, stop it, or give another MODEL_DIR"
        )


def _holder(facts: dict[str, Any]) -> str:
    return f"process {facts.get('pid', '?')} on {facts.get('host', 'another host')} since {facts.get('since', '?')}"
