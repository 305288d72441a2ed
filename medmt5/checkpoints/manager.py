"""Saving and restoring a run: Orbax, asynchronous, each step with its data state and a digest of every array.

    MODEL_DIR/checkpoint_<step>/state/     TrainState: step, params, opt_state
    MODEL_DIR/checkpoint_<step>/data/      JSON: what the data needs to go on (the token stores' digests, the next step)
    MODEL_DIR/checkpoint_<step>/digests/   JSON: path -> digest of `state`, and "data" -> digest of `data`
    MODEL_DIR/checkpoint_<step>/config/    config.gin: the resolved configuration of the run that saved it
    MODEL_DIR/checkpoint_<step>.damaged/   a checkpoint that did not match its digests; nothing reads or deletes it

On object stores a mark is put last, where on a disk the whole folder is renamed (`object_store`).

A restore that fails or does not match its digests is reported on standard error and the next older checkpoint is tried:
a damaged file costs steps, never silently wrong weights. A save that fails in the background stops the run at the next
step: what is trained after it could not be saved either. Of several processes it stops the one whose save failed, and
that one all others (`failure`); 20 minutes, after which Orbax fails a save, are left for storage that hangs.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from medmt5 import storage
from medmt5.checkpoints import adapters, object_store
from medmt5.checkpoints.digests import tree_digests
from medmt5.checkpoints.orbax_reports import quiet_orbax, silence_stragglers
from medmt5.checkpoints.text_item import Text
from medmt5.errors import InputError
from medmt5.failure import SaveError

PREFIX = "checkpoint"
CONFIG = "config.gin"
CHUNK_BYTES = 1 << 25  # of an array, at most: what is read in parts need not be decoded whole (`conversion`)
logger = logging.getLogger(__name__)


class CheckpointManager:
    """Writes and reads the checkpoints of one MODEL_DIR, which nothing else may write to (`ownership.owning`).

    A context manager: leaving it waits for the save that is under way, after an error too.

    Args:
      directory: MODEL_DIR, on a disk or an object store; made if missing.
      keep: newest checkpoints to keep; None = all.
      config: text of config.gin, which is saved with each checkpoint; None: without one.
      before_save: called before each save begins, for what must be in MODEL_DIR when the checkpoint is.
    """

    def __init__(
        self,
        directory: str | Path,
        keep: int | None = None,
        config: str | None = None,
        before_save: Callable[[], None] = lambda: None,
    ):
        self.directory = object_store.open_directory(directory)
        self._config = {} if config is None else {"config": Text(CONFIG, config)}
        self._before_save, self._keep = before_save, keep
        self._on_store = storage.is_url(directory)
        silence_stragglers()
        if jax.process_index() == 0:
            object_store.remove_unfinished(directory)
        options = ocp.CheckpointManagerOptions(
            step_prefix=PREFIX,
            max_to_keep=None if self._on_store else keep,
            enable_async_checkpointing=True,
            lightweight_initialize=True,  # damage in a checkpoint's metadata is for `restore_newest` to find
            async_options=ocp.options.AsyncOptions(barrier_sync_fn=self._meet),
            **object_store.manager_options(directory),
        )
        self._meet_others = ocp.multihost.get_barrier_sync_fn()
        self._save_failed = False
        self._manager = ocp.CheckpointManager(self.directory, options=options)
        self._saving: int | None = None  # the step whose save has not been seen to succeed

    def save(self, step: int, state: Any, data: dict[str, Any]) -> None:
        """Starts saving; returns when `state` may be donated. A step that exists is left as it is.

        Raises SaveError when this save, or the one before it, fails.
        """
        self.wait()
        if step in self._manager.all_steps():
            return
        self._before_save()
        self._delete_old()
        self._saving = step
        with self._explained():
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(
                        state, save_args=jax.tree.map(lambda _: ocp.SaveArgs(chunk_byte_size=CHUNK_BYTES), state)
                    ),
                    data=ocp.args.JsonSave(data),
                    digests=ocp.args.JsonSave({**tree_digests(state), "data": data_digest(data)}),
                    **self._config,
                ),
            )

    def check(self) -> None:
        """Raises SaveError if a save has failed in the background. To be called every step: it takes microseconds."""
        if self._save_failed or (self._saving is not None and not self._manager.is_saving_in_progress()):
            self.wait()

    def wait(self) -> None:
        """Returns when what was saved is on disk; raises SaveError when it could not be written."""
        with self._explained():
            self._manager.wait_until_finished()
        self._saving = None

    def restore_newest(self, shapes: Any, shardings: Any) -> tuple[int, Any, dict[str, Any]] | None:
        """Returns (step, state, data) of the newest checkpoint that matches its digests, None if there is no
        checkpoint. Newer ones that do not are renamed to `checkpoint_<step>.damaged`.

        Raises InputError when there are checkpoints but none is good.
        """
        steps = sorted(self._manager.all_steps(), reverse=True)
        for step in steps:
            restored = self._restore(step, _abstract(shapes, shardings))
            if restored is None:
                continue
            state, data = restored
            if step != steps[0]:
                self._set_aside([bad for bad in steps if bad > step])
                logger.error("going on from %s_%d; the steps after it are trained again", PREFIX, step)
            return step, state, data
        if steps:
            raise InputError(
                f"none of the {len(steps)} checkpoints in {self.directory} can be restored (see the errors "
                "above); a changed model or "
                "optimizer needs another MODEL_DIR, with INITIAL_CHECKPOINT_PATH to start from these weights"
            )
        return None

    def close(self) -> None:
        self.wait()
        self._delete_old()
        self._manager.close()

    def __enter__(self) -> CheckpointManager:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is None:
            self.close()
        elif not isinstance(error, SaveError) and jax.process_count() == 1:  # of several, one may not come to the end
            try:
                self.close()
            except SaveError as failure:  # what ended the block is what the user must hear of first
                logger.error("%s", failure)

    def _delete_old(self) -> None:
        """Deletes what is not to be kept, on a store; on a disk Orbax does, while it saves."""
        if self._on_store and self._keep and (old := sorted(self._manager.all_steps())[: -self._keep]):
            for step in old if jax.process_index() == 0 else ():
                object_store.delete_checkpoint(self.directory / f"{PREFIX}_{step}")
            self._manager.reload()

    def _meet(self, *, key: str, timeout_ms: int) -> None:
        """Waits where Orbax waits for the other processes. A process whose save has failed comes here on its way out,
        and Orbax would let it wait for those who wait for it elsewhere: it goes on with its error instead.
        """
        error = sys.exc_info()[1]
        if error is not None:
            self._save_failed = True
            raise error
        self._meet_others(key=key, timeout_ms=timeout_ms)

    def _restore(self, step: int, abstract: Any) -> tuple[Any, dict[str, Any]] | None:
        """Returns (state, data) of one checkpoint; None, with an error in the log, if it is damaged."""
        checkpoint = self.directory / f"{PREFIX}_{step}"
        restored: Any = None
        problem = ""
        try:
            # By the handlers, not the manager: it waits for the other processes, who would wait for one that failed.
            state = ocp.StandardCheckpointHandler().restore(
                checkpoint / "state", args=ocp.args.StandardRestore(abstract)
            )
            data, digests = (ocp.JsonCheckpointHandler().restore(checkpoint / item) for item in ("data", "digests"))
            restored = state, data
        except Exception as error:  # whatever Orbax or TensorStore raise on damage; older steps may be whole
            problem = _first_line(error)
        # A process may have read its shards while another one could not; digests are computed by all, or by none.
        # They are outside of the blocks: a process that goes away here is no damage.
        if _all_agree(restored is not None):
            ours = tree_digests(state)
            try:
                _compare({**ours, "data": data_digest(data)}, digests, "the restored state")
            except Exception as error:  # `data` and `digests` may be anything
                problem = _first_line(error)
            if _all_agree(not problem):
                return restored
        logger.error("%s_%d cannot be used: %s", PREFIX, step, problem or "another process could not read it")
        return None

    def _set_aside(self, steps: list[int]) -> None:
        """Renames damaged checkpoints out of the way: someone may want to see what happened to them."""
        for step in steps:
            name = f"{PREFIX}_{step}"
            if jax.process_index() == 0:
                target, number = self.directory / f"{name}.damaged", 1
                while target.exists():
                    number += 1
                    target = self.directory / f"{name}.damaged-{number}"
                object_store.rename_checkpoint(self.directory / name, target)
                logger.error("%s is kept as %s, to be looked at; delete it when you have", name, target.name)
        _all_agree(True)  # nobody lists the folder before the first process has renamed
        self._manager.reload()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # whatever Orbax, TensorStore or the file system raise
            step = self._saving
            good = max((s for s in self._manager.all_steps() if s != step), default=None)
            kept = f"{PREFIX}_{good} is the last good one" if good is not None else "there is no earlier one"
            raise SaveError(
                f"{PREFIX}_{step} could not be saved in {self.directory}: {_first_line(error)}; {kept}. "
                "Is the disk full? Make room, and start the same command again to go on from there."
            ) from error


def find_checkpoint(path: Path) -> Path:
    """Returns the checkpoint folder that `path` names: itself, or the newest one of a MODEL_DIR.

    Raises InputError naming what is there.
    """
    path = Path(path).absolute()
    if (path / "state").is_dir() and _step_of(path) is not None:
        return path
    if not path.is_dir():
        raise InputError(f"no such folder: {path}; give a MODEL_DIR, or one {PREFIX}_<step> folder in it")
    steps = checkpoints_in(path)
    if not steps:
        raise InputError(
            f"no {PREFIX}_<step> in {path}; give a MODEL_DIR that `medmt5 train` has written to, or one of its "
            "checkpoints"
        )
    return steps[max(steps)]


def checkpoints_in(model_dir: Path) -> dict[int, Path]:
    """Returns step -> folder of the checkpoints there are, as far as their names say."""
    steps = {_step_of(child): child for child in model_dir.iterdir() if (child / "state").is_dir()}
    return {step: child for step, child in steps.items() if step is not None}


def checkpoint_step(path: Path) -> int:
    """Returns the step in the name of a checkpoint folder."""
    step = _step_of(Path(path))
    if step is None:
        raise InputError(f"{path} is not named {PREFIX}_<step>")
    return step


def restore_params(
    checkpoint: Path, shapes: Any, shardings: Any, restore_base: Callable[[Path, Any, Any], Any] | None = None
) -> Any:
    """Returns the parameters alone of one checkpoint folder, checked against their digests; of adapters, merged into
    their base, which `restore_base` reads (None: this function, a base of ours).

    Raises InputError naming the parameters that are missing, left over or of another shape.
    """
    checkpoint = Path(checkpoint).absolute()
    record = adapters.record_in(read_data(checkpoint))
    if record is None:
        return _restore_stored(checkpoint, shapes, shardings)
    base = (restore_base or restore_params)(record.base_folder(checkpoint), shapes, shardings)
    own = _restore_stored(checkpoint, *adapters.own_layout(_stored_shapes(checkpoint), shapes, shardings))
    return adapters.merge_into_base(base, own, record, shardings)


def _restore_stored(checkpoint: Path, shapes: Any, shardings: Any) -> Any:
    abstract = {"params": _abstract(shapes, shardings)}
    arguments = ocp.args.PyTreeRestore(
        item=abstract, restore_args=ocp.checkpoint_utils.construct_restore_args(abstract), partial_restore=True
    )
    with _readable(checkpoint), ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        _check_shapes(checkpoint, _stored_shapes(checkpoint), shapes)
        params = reader.restore(checkpoint / "state", args=arguments)["params"]
        digests = ocp.JsonCheckpointHandler().restore(checkpoint / "digests")
    ours = {f".params{path}": value for path, value in tree_digests(params).items()}
    _compare(ours, {path: value for path, value in digests.items() if path in ours}, checkpoint)
    return params


def _stored_shapes(checkpoint: Path) -> dict[str, tuple[int, ...]]:
    """Returns path -> shape of the parameters in a checkpoint, as `_name` writes paths."""
    with _readable(checkpoint), ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        metadata = reader.metadata(checkpoint / "state").item_metadata.tree["params"]
        return {_name(path): tuple(leaf.shape) for path, leaf in jax.tree_util.tree_leaves_with_path(metadata)}


def read_data(checkpoint: Path) -> dict[str, Any]:
    """Returns what was saved beside the state; {} for a checkpoint that says nothing: a converted one."""
    if not (checkpoint / "data").is_dir():
        return {}
    with _readable(checkpoint):
        data, digests = (ocp.JsonCheckpointHandler().restore(checkpoint / item) for item in ("data", "digests"))
        _compare({"data": data_digest(data)}, {"data": digests["data"]}, checkpoint)
        return data


@contextmanager
def _readable(checkpoint: Path) -> Iterator[None]:
    """Turns whatever Orbax, TensorStore or JSON raise on damage into one message."""
    with quiet_orbax():
        try:
            yield
        except InputError:
            raise
        except Exception as error:
            raise InputError(f"{checkpoint} cannot be read, it is damaged or not ours: {_first_line(error)}") from error


def _check_shapes(checkpoint: Path, stored: dict[str, tuple[int, ...]], shapes: Any) -> None:
    wanted = {_name(path): tuple(leaf.shape) for path, leaf in jax.tree_util.tree_leaves_with_path(shapes)}
    problems = [f"  missing in the checkpoint: {name} {shape}" for name, shape in wanted.items() if name not in stored]
    problems += [f"  not in this model: {name} {shape}" for name, shape in stored.items() if name not in wanted]
    problems += [
        f"  {name}: {stored[name]} in the checkpoint, {shape} in this model"
        for name, shape in wanted.items()
        if name in stored and stored[name] != shape
    ]
    if problems:
        raise InputError(
            f"{checkpoint} does not fit this model; use the same model file and VOCAB_SIZE\n" + "\n".join(problems[:12])
        )


def _compare(ours: dict[str, int], stored: dict[str, int], what: Any) -> None:
    wrong = [path for path in ours.keys() | stored.keys() if stored.get(path) != ours.get(path)]
    if wrong:
        raise InputError(
            f"{what}: {len(wrong)} of {len(ours)} digests differ from what was saved, first {min(wrong)}: the file "
            "is damaged"
        )


def data_digest(data: dict[str, Any]) -> int:
    """Returns a 32-bit digest of what JSON keeps of `data`."""
    return zlib.crc32(json.dumps(json.loads(json.dumps(data)), sort_keys=True).encode())


def _all_agree(mine: bool) -> bool:
    """Returns whether every process says True; waits for all of them."""
    return mine if jax.process_count() == 1 else bool(np.all(multihost_utils.process_allgather(np.array(mine))))


def _abstract(shapes: Any, shardings: Any) -> Any:
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings)


def _step_of(path: Path) -> int | None:
    match = re.fullmatch(rf"{PREFIX}_(\d+)", path.name)
    return int(match.group(1)) if match else None


def _first_line(error: Exception) -> str:
    """Where it is long, its middle is left out: the reason stands at the end, after names of files."""
    line = str(error).strip().partition("\n")[0]
    return (line if len(line) <= 300 else f"{line[:150]} … {line[-150:]}") or type(error).__name__


def _name(path: tuple) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")
