"""A file that is written in chunks by a process that may be killed: each chunk counts whole, or not at all.

`<name>.part` grows; after each chunk `<name>.journal` says how many of its bytes count, what they were made with, and
where their maker stood. A process that starts again cuts off what came after, and goes on. At the end the journal goes
and the part takes the name, so that under the name there is only ever a whole file. Killed between the two, the part
without a journal counts for nothing and is begun again.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from medmt5.errors import InputError
from medmt5.model_files import write_whole


class ResumableOutput:
    """The file `path`, in the making; a context manager that holds it for this process.

    Args:
      facts: what the content depends on, as JSON knows it; a journal with others is not gone on from.

    Attributes:
      position: where the maker stood after the last chunk that counts; empty at the beginning.

    Raises:
      InputError: the journal has other facts (told one by one) or does not fit the part; another process writes here.
    """

    def __init__(self, path: Path, facts: Mapping[str, Any]):
        self._path, self._facts = path, json.loads(json.dumps(facts))
        self._part, self._journal = path.with_name(path.name + ".part"), path.with_name(path.name + ".journal")
        self._file = open(os.open(self._part, os.O_RDWR | os.O_CREAT, 0o666), "r+b")  # noqa: SIM115  closed by __exit__
        try:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InputError(f"another process is writing {path}; wait for it, or give another --output") from None
            written = self._read_journal()
            self.position: dict[str, Any] = written["position"]
            self._file.truncate(written["bytes"])
            self._file.seek(written["bytes"])
        except BaseException:
            self._file.close()
            raise

    def write(self, chunk: str, position: Mapping[str, Any]) -> None:
        """Adds a chunk; from its return on it counts, whatever happens to the process or the machine."""
        self._add(chunk)
        journal = {"bytes": self._file.tell(), "facts": self._facts, "position": dict(position)}
        write_whole(self._journal, (json.dumps(journal, indent=1) + "\n").encode())

    def finish(self, end: str) -> None:
        """Adds the end and gives the file its name. Killed on the way, all but the end counts."""
        self._add(end)
        self._journal.unlink(missing_ok=True)
        self._part.replace(self._path)

    def __enter__(self) -> ResumableOutput:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()

    def _add(self, content: str) -> None:
        self._file.write(content.encode("utf-8"))
        self._file.flush()
        os.fsync(self._file.fileno())

    def _read_journal(self) -> dict[str, Any]:
        if not self._journal.exists():
            return {"bytes": 0, "position": {}}
        anew = f"remove {self._journal} to begin anew"
        try:
            journal = json.loads(self._journal.read_bytes())
            written, facts = int(journal["bytes"]), dict(journal["facts"])
            dict(journal["position"])
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{self._journal} is damaged ({type(error).__name__}); {anew}") from error
        if facts != self._facts:
            differences = [
                f"  {name}: {json.dumps(facts.get(name))} then, {json.dumps(self._facts.get(name))} now"
                for name in [*self._facts, *(facts.keys() - self._facts.keys())]
                if facts.get(name) != self._facts.get(name)
            ]
            raise InputError(
                f"{self._path} was begun with something else; go on with the same, or {anew}\n" + "\n".join(differences)
            )
        if (size := os.fstat(self._file.fileno()).st_size) < written:
            raise InputError(f"{self._part} has {size} bytes, its journal counts {written}; {anew}")
        return journal
