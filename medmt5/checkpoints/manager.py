"""Saving and restoring a run: Orbax, asynchronous, each step with its data state and a digest of every array.

    MODEL_DIR/checkpoint_<step>/state/     TrainState: step, params, opt_state
    MODEL_DIR/checkpoint_<step>/data/      JSON: what the data needs to go on (the token stores' digests, the next step)
    MODEL_DIR/checkpoint_<step>/digests/   JSON: path -> digest of `state`

A restore that fails or does not match its digests is reported on standard error and the next older checkpoint is tried:
a damaged file costs steps, never silently wrong weights.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from absl import logging as absl_logging

from medmt5.checkpoints.digests import tree_digests
from medmt5.errors import InputError

PREFIX = "checkpoint"
logger = logging.getLogger(__name__)


class CheckpointManager:
    """Writes and reads the checkpoints of one MODEL_DIR.

    Args:
      directory: MODEL_DIR; made if missing.
      keep: newest checkpoints to keep; None = all.
    """

    def __init__(self, directory: Path, keep: int | None = None):
        self.directory = Path(directory).absolute()
        options = ocp.CheckpointManagerOptions(
            step_prefix=PREFIX, max_to_keep=keep, cleanup_tmp_directories=True, enable_async_checkpointing=True
        )
        self._manager = ocp.CheckpointManager(self.directory, options=options)

    def save(self, step: int, state: Any, data: dict[str, Any]) -> None:
        """Starts saving; returns when `state` may be donated. A step that exists is left as it is."""
        if step in self._manager.all_steps():
            return
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state),
                data=ocp.args.JsonSave(data),
                digests=ocp.args.JsonSave(tree_digests(state)),
            ),
        )

    def restore_newest(self, shapes: Any, shardings: Any) -> tuple[int, Any, dict[str, Any]] | None:
        """Returns (step, state, data) of the newest checkpoint that matches its digests, None if there is no
        checkpoint.

        Raises InputError when there are checkpoints but none is good.
        """
        steps = sorted(self._manager.all_steps(), reverse=True)
        for step in steps:
            try:
                restored = self._manager.restore(
                    step,
                    args=ocp.args.Composite(
                        state=ocp.args.StandardRestore(_abstract(shapes, shardings)),
                        data=ocp.args.JsonRestore(),
                        digests=ocp.args.JsonRestore(),
                    ),
                )
                _check_digests(restored.state, restored.digests)
            except Exception as error:  # whatever Orbax or TensorStore raise on damage; older steps may be whole
                logger.error("checkpoint_%d cannot be used: %s", step, _first_line(error))
                continue
            if step != steps[0]:
                logger.error("going on from checkpoint_%d; the steps after it are trained again", step)
                for bad in [s for s in steps if s > step]:
                    self._manager.delete(bad)
            return step, restored.state, restored.data
        if steps:
            raise InputError(
                f"none of the {len(steps)} checkpoints in {self.directory} can be restored (see the errors "
                "above); a changed model or "
                "optimizer needs another MODEL_DIR, with INITIAL_CHECKPOINT_PATH to start from these weights"
            )
        return None

    def wait(self) -> None:
        """Returns when what was saved is on disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        self._manager.close()


def find_checkpoint(path: Path) -> Path:
    """Returns the checkpoint folder that `path` names: itself, or the newest one of a MODEL_DIR.

    Raises InputError naming what is there.
    """
    path = Path(path).absolute()
    if (path / "state").is_dir() and _step_of(path) is not None:
        return path
    if not path.is_dir():
        raise InputError(f"no such folder: {path}; give a MODEL_DIR, or one {PREFIX}_<step> folder in it")
    steps = {
        step: child for child in path.iterdir() if (step := _step_of(child)) is not None and (child / "state").is_dir()
    }
    if not steps:
        raise InputError(
            f"no {PREFIX}_<step> in {path}; give a MODEL_DIR that `medmt5 train` has written to, or one of its "
            "checkpoints"
        )
    return steps[max(steps)]


def checkpoint_step(path: Path) -> int:
    """Returns the step in the name of a checkpoint folder."""
    step = _step_of(Path(path))
    if step is None:
        raise InputError(f"{path} is not named {PREFIX}_<step>")
    return step


def restore_params(checkpoint: Path, shapes: Any, shardings: Any) -> Any:
    """Returns the parameters alone of one checkpoint folder, checked against their digests.

    Raises InputError naming the parameters that are missing, left over or of another shape.
    """
    checkpoint = Path(checkpoint).absolute()
    abstract = {"params": _abstract(shapes, shardings)}
    arguments = ocp.args.PyTreeRestore(
        item=abstract, restore_args=ocp.checkpoint_utils.construct_restore_args(abstract), partial_restore=True
    )
    with _quiet_orbax(), ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        try:
            stored = reader.metadata(checkpoint / "state").item_metadata.tree["params"]
            _check_shapes(checkpoint, stored, shapes)
            params = reader.restore(checkpoint / "state", args=arguments)["params"]
            with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as json_reader:
                digests = json_reader.restore(checkpoint / "digests")
        except InputError:
            raise
        except Exception as error:  # whatever Orbax or TensorStore raise on damage
            raise InputError(f"{checkpoint} cannot be read, it is damaged or not ours: {_first_line(error)}") from error
    ours = {f".params{path}": value for path, value in tree_digests(params).items()}
    _compare(ours, {path: value for path, value in digests.items() if path in ours}, checkpoint)
    return params


def _check_shapes(checkpoint: Path, metadata: Any, shapes: Any) -> None:
    stored = {
        jax.tree_util.keystr(path): tuple(leaf.shape) for path, leaf in jax.tree_util.tree_leaves_with_path(metadata)
    }
    wanted = {
        jax.tree_util.keystr(path): tuple(leaf.shape) for path, leaf in jax.tree_util.tree_leaves_with_path(shapes)
    }
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


def _check_digests(state: Any, digests: dict[str, int]) -> None:
    _compare(tree_digests(state), digests, "the restored state")


def _compare(ours: dict[str, int], stored: dict[str, int], what: Any) -> None:
    wrong = [path for path, value in ours.items() if stored.get(path) != value]
    if wrong:
        raise InputError(
            f"{what}: {len(wrong)} of {len(ours)} arrays differ from what was saved, first {wrong[0]}: the file "
            "is damaged"
        )


@contextmanager
def _quiet_orbax() -> Iterator[None]:
    """Orbax warns about a metadata file that only a CheckpointManager of several items would look for."""
    level = absl_logging.get_verbosity()
    absl_logging.set_verbosity(absl_logging.ERROR)
    try:
        yield
    finally:
        absl_logging.set_verbosity(level)


def _abstract(shapes: Any, shardings: Any) -> Any:
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings)


def _step_of(path: Path) -> int | None:
    match = re.fullmatch(rf"{PREFIX}_(\d+)", path.name)
    return int(match.group(1)) if match else None


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
