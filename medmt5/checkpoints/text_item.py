"""A text as an item of a checkpoint, which Orbax has for JSON alone: a checkpoint that is there has it."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path

import jax
import orbax.checkpoint as ocp


class TextHandler(ocp.AsyncCheckpointHandler):
    """Saves a `Text` as one file, written by the first process."""

    async def async_save(self, directory: Path, args: Text) -> list[ocp.future.Future]:
        async def write() -> None:
            if jax.process_index() == 0:
                (directory / args.file_name).write_text(args.text, encoding="utf-8")

        # It waits until `directory`, which another process may make, is there.
        return [ocp.future.CommitFutureAwaitingContractedSignals(write(), name="text")]

    def save(self, directory: Path, args: Text) -> None:
        for future in asyncio.run(self.async_save(directory, args)):
            future.result()

    def restore(self, directory: Path, args: Text) -> str:
        return (directory / args.file_name).read_text(encoding="utf-8")


@ocp.args.register_with_handler(TextHandler, for_save=True, for_restore=True)
@dataclasses.dataclass
class Text(ocp.args.CheckpointArgs):
    """`text` goes to the item's folder, into `file_name`."""

    file_name: str
    text: str = ""
