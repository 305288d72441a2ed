"""Several processes that train one model together: how they find each other, which of them writes, how they end.

Every process runs the same program on its own devices; JAX's coordinator, in process 0, introduces them. Process 0
alone writes metrics, configuration and progress; of a checkpoint each process writes its own shards. One that fails
ends them all (`failure`).
"""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Mapping
from typing import Any

import jax
from jax._src import distributed  # the coordinator's key-value store has no public name

from medmt5.errors import InputError
from medmt5.failure import SharedFailure

WAIT_SECONDS = 600  # for process 0, whose disk may be slow; if it fails, that ends all long before
_failure: SharedFailure | None = None
_required = 0  # calls of `require_same` so far


def connect(
    coordinator_address: str | None = None, process_count: int | None = None, process_index: int | None = None
) -> None:
    """Joins the other processes of this run, if there are any. Must come before anything touches a device.

    With all three arguments: as they say. With none: as the TPU pod, Slurm step, Open MPI run or indexed Job of
    Kubernetes says that the process belongs to, and nothing happens outside of one. JAX gives a Slurm or Open MPI
    process the one GPU of its local rank, so start one process a GPU there.

    Args:
      coordinator_address: "host:port" of process 0, any free port; the same for all.
      process_count, process_index: how many there are, and which one this is, from 0.
    """
    given = {
        "--coordinator_address": coordinator_address,
        "--process_count": process_count,
        "--process_index": process_index,
    }
    missing = [name for name, value in given.items() if value is None]
    if len(missing) == len(given):
        if _in_cluster():
            _initialize()
        return
    if missing:
        raise InputError(f"{', '.join(missing)} missing: several processes need all of {', '.join(given)}")
    assert coordinator_address is not None
    assert process_count is not None
    assert process_index is not None
    host, _, port = coordinator_address.rpartition(":")
    if not host or not port.isdigit():
        raise InputError(f"--coordinator_address is HOST:PORT of process 0, not {coordinator_address!r}")
    if not 0 <= process_index < process_count:
        raise InputError(f"--process_index counts from 0 to {process_count - 1}, not {process_index}")
    _initialize(coordinator_address, process_count, process_index, cluster_detection_method="deactivate")


def is_first() -> bool:
    """Returns whether this process is the one that writes and prints."""
    return jax.process_index() == 0


def require_same(facts: Mapping[str, Any], what: str) -> None:
    """Raises InputError in every process whose `facts`, as JSON keeps them, are not those of process 0; it ends all.

    To be called by all processes, in the same order. Costs a message a process, and process 0 waits for nobody.
    """
    if jax.process_count() == 1:
        return
    global _required
    _required += 1
    key, mine = f"medmt5/required/{_required}", json.loads(json.dumps(facts))
    store: Any = distributed.global_state.client
    if is_first():
        store.key_value_set(key, json.dumps(mine))
        return
    theirs = json.loads(store.blocking_key_value_get(key, WAIT_SECONDS * 1000))
    if changed := sorted(name for name in mine.keys() | theirs.keys() if mine.get(name) != theirs.get(name)):
        raise InputError(
            f"the {what} of process {jax.process_index()} are not those of process 0: {', '.join(changed)}; start all "
            "processes alike, with the same files"
        )


def end_together(error: BaseException, code: int, message: str, traceback: bool = False) -> None:
    """Prints what happened and ends every process of this run with `code`; returns at once where there is only one.

    See `SharedFailure.end`.
    """
    if _failure is not None:
        _failure.end(error, code, message, traceback)


def _in_cluster() -> bool:
    """A step of one process (a shell on a node, a container) is no cluster: JAX would hide all GPUs but one from it."""
    slurm = "SLURM_STEP_NODELIST" in os.environ and int(os.environ.get("SLURM_NTASKS", "1")) > 1
    open_mpi = int(os.environ.get("OMPI_COMM_WORLD_SIZE", "1")) > 1
    return slurm or open_mpi or _on_tpu() or _in_kubernetes_job()


def _in_kubernetes_job() -> bool:
    """JAX asks Kubernetes' API who else is in the Job."""
    if not {"KUBERNETES_SERVICE_HOST", "JOB_COMPLETION_INDEX"} <= os.environ.keys():
        return False
    if importlib.util.find_spec("kubernetes") is None:
        raise InputError(
            "this pod is one of an indexed Job of Kubernetes, and JAX finds the others through the package kubernetes, "
            "which is not installed: pip install kubernetes, or give --coordinator_address, --process_count and "
            "--process_index; a pod that trains alone unsets JOB_COMPLETION_INDEX"
        )
    return True


def _on_tpu() -> bool:
    return importlib.util.find_spec("libtpu") is not None and os.environ.get("JAX_PLATFORMS", "tpu").startswith("tpu")


def _initialize(*arguments, **options) -> None:
    try:
        jax.distributed.initialize(*arguments, **options)
    except (ValueError, RuntimeError) as error:
        if not arguments and "coordinator_address should be defined" in str(error):
            return  # a TPU of one host
        raise InputError(f"the processes of this run could not be joined: {error}") from error
    global _failure
    state = distributed.global_state
    if state.num_processes > 1:
        _failure = SharedFailure(state.client, state.process_id, state.num_processes)
