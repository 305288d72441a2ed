"""The device mesh, and which logical axis of the model lies on which mesh axis.

Hardware: devices d0 d1 …, in groups that a fast network joins (a host's GPUs on NVLink, a TPU slice on ICI), groups
joined by a slower one (DCN, Ethernet). Logical mesh of 2 hosts with 4 devices each and NUM_MODEL_PARTITIONS = 2:

                model (tensor parallel)
              +----+----+
              | d0 | d1 |                  Each column holds another part of heads, mlp and vocabulary; its partial
      data    +----+----+  host 0          sums meet several times a layer, so a row never leaves its fast network.
    (batch,   | d2 | d3 |
     FSDP)    +----+----+ - - - - - - - -  Each row sees other examples; rows meet once a step (gradients), with FSDP
              | d4 | d5 |                  once a layer (parameters), and may cross hosts.
              +----+----+  host 1
              | d6 | d7 |
              +----+----+

The model names its axes; two maps say where they go. Compute (activations): batch -> data; heads, mlp, vocab -> model.
Parameters and optimizer state: the same, and with `shard_parameters_over_data` (FSDP, ZeRO-3) also embed -> data.
Nothing else knows devices.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from medmt5.errors import InputError

logger = logging.getLogger(__name__)

AXES = ("data", "model")
AXIS_TYPES = (AxisType.Auto, AxisType.Auto)  # GSPMD propagates shardings under Auto axes; JAX's default is Explicit
COMPUTE_RULES = (
    ("batch", "data"),
    ("vocab", "model"),
    ("mlp", "model"),
    ("heads", "model"),
    ("embed", None),
    ("length", None),
    ("kv", None),
    ("layers", None),
    ("relpos_buckets", None),
    ("lora_rank", None),
)


@dataclasses.dataclass(frozen=True)
class Partitioning:
    """How a run uses its devices.

    Attributes:
      num_model_partitions: devices that share one copy of heads, mlp and vocabulary (tensor parallelism).
      shard_parameters_over_data: also split parameters and optimizer state over the data axis (FSDP).
      num_devices: use the first so many; None = all there are.
    """

    num_model_partitions: int = 1
    shard_parameters_over_data: bool = False
    num_devices: int | None = None

    def mesh_shape(self, available: int) -> tuple[int, int]:
        """Returns (data, model) for a machine with `available` devices."""
        count = self.num_devices or available
        if count > available:
            raise InputError(f"{count} devices asked for, {available} devices found; lower num_devices")
        if count % self.num_model_partitions:
            raise InputError(
                f"{count} devices cannot be split into groups of NUM_MODEL_PARTITIONS = {self.num_model_partitions}; "
                f"set it to a divisor of {count}"
            )
        return count // self.num_model_partitions, self.num_model_partitions

    def make_mesh(self) -> Mesh:
        """Returns the mesh (data, model) over the devices of all processes."""
        devices = jax.devices()
        shape = self.mesh_shape(len(devices))
        used = devices[: shape[0] * shape[1]]
        if len({d.process_index for d in used}) < jax.process_count():
            raise InputError(
                f"num_devices = {len(used)} leaves some of the {jax.process_count()} processes without a device; "
                "start one process, or use all devices"
            )
        return Mesh(arrange_devices(used, shape), AXES, AXIS_TYPES)

    def plan_mesh(self, available: int) -> AbstractMesh:
        """Returns the mesh of a machine that is not at hand: its shape without devices, all that planning needs."""
        return AbstractMesh(self.mesh_shape(available), AXES, AXIS_TYPES)

    @property
    def parameter_rules(self) -> tuple[tuple[str, str | None], ...]:
        rules = dict(COMPUTE_RULES)
        if self.shard_parameters_over_data:
            rules["embed"] = "data"
        return tuple(rules.items())


def arrange_devices(devices: Sequence[Any], shape: tuple[int, int]) -> np.ndarray:
    """Returns [data, model] devices: a tensor-parallel row stays within a host or slice wherever it fits into one.

    `mesh_utils` knows the wiring of each TPU; what it needs from us is how much of each axis stays inside a group.
    """
    data, model = shape
    groups = _fast_groups(devices)
    if len(groups) == 1:
        return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    size = len(groups[0])
    if any(len(group) != size for group in groups) or (size % model and model % size):
        raise InputError(
            f"rows of NUM_MODEL_PARTITIONS = {model} devices do not fit into hosts or slices of "
            f"{', '.join(str(len(group)) for group in groups)} devices; use equal ones, and a divisor of their size"
        )
    inside = min(size, model)
    if inside < model:
        logger.warning(
            "NUM_MODEL_PARTITIONS = %d spans hosts of %d devices: every layer waits for the network between them",
            model, size,
        )  # fmt: skip
    within, across = (size // inside, inside), (data * inside // size, model // inside)
    by_process = getattr(devices[0], "slice_index", None) is None
    return mesh_utils.create_hybrid_device_mesh(
        within, across, devices, process_is_granule=by_process, allow_split_physical_axes=True
    )


def _fast_groups(devices: Sequence[Any]) -> list[list[Any]]:
    """Splits devices where the fast network ends: at slices (TPU, GPU) or, where JAX knows of none, at processes."""
    groups: dict[int, list[Any]] = {}
    for device in devices:
        slice_index = getattr(device, "slice_index", None)
        groups.setdefault(device.process_index if slice_index is None else slice_index, []).append(device)
    return list(groups.values())


@contextmanager
def compute_context(mesh: Mesh) -> Iterator[None]:
    """Makes the logical constraints inside the model mean `mesh` while a step is traced."""
    with jax.sharding.set_mesh(mesh), nn.logical_axis_rules(COMPUTE_RULES):
        yield


def in_context(jitted: Any, mesh: Mesh) -> Any:
    """Returns a jitted function that is called, and lowered, in the `compute_context` of `mesh`."""

    def call(*args):
        with compute_context(mesh):
            return jitted(*args)

    def lower(*args):
        with compute_context(mesh):
            return jitted.lower(*args)

    call.lower = lower  # type: ignore[attr-defined]
    return call


def batch_sharding(mesh: Mesh | AbstractMesh) -> NamedSharding:
    """Rows over `data`, everything else whole."""
    return NamedSharding(mesh, PartitionSpec("data"))


def replicated(mesh: Mesh | AbstractMesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def parameter_shardings(boxed_params: Any, mesh: Mesh | AbstractMesh, partitioning: Partitioning) -> Any:
    """Returns a NamedSharding a parameter, from the axis names boxed around it (arrays or ShapeDtypeStructs)."""
    specs = nn.get_partition_spec(boxed_params)
    return nn.logical_to_mesh_sharding(specs, mesh, partitioning.parameter_rules)  # type: ignore[arg-type]


def check_divisible(mesh: Mesh | AbstractMesh, *, batch_size: int, dimensions: dict[str, int]) -> None:
    """Raises InputError where a batch or a model dimension does not divide by its mesh axis.

    `dimensions`: what the model axis splits, name -> size, e.g. {"num_heads": 6, "VOCAB_SIZE": 250112}.
    """
    data, model = mesh.shape["data"], mesh.shape["model"]
    if batch_size % data:
        raise InputError(
            f"BATCH_SIZE = {batch_size} is not a multiple of the {data} data shards; set it to a multiple of {data}"
        )
    for name, size in dimensions.items():
        if size % model:
            raise InputError(
                f"{name} = {size} of the model does not divide into NUM_MODEL_PARTITIONS = {model} parts; "
                f"choose a divisor of {size}"
            )


def check_parameters_divide(shapes: Any, shardings: Any) -> None:
    """Raises InputError that names the parameter, the dimension and the mesh axis where a shard would not be whole.

    `shapes`: a tree of arrays or ShapeDtypeStructs; `shardings`: its NamedShardings. JAX itself would raise only when
    the state is made, and without the parameter's name.
    """
    leaves = jax.tree_util.tree_leaves_with_path(shapes)
    for (path, leaf), sharding in zip(leaves, jax.tree.leaves(shardings), strict=True):
        for size, axis in zip(leaf.shape, sharding.spec, strict=False):
            if axis is not None and size % sharding.mesh.shape[axis]:
                raise InputError(
                    f"{jax.tree_util.keystr(path, simple=True, separator='/')} {leaf.shape}: {size} does not divide "
                    f"into the {sharding.mesh.shape[axis]} parts of the mesh axis {axis!r}; "
                    + ("use fewer data shards, or a mesh without FSDP" if axis == "data" else "choose a divisor")
                )


def process_share(mesh: Mesh) -> tuple[int, int]:
    """Returns (index, count): this process reads the index-th of `count` equal parts of every batch.

    The parts are the processes, unless tensor-parallel rows span several: those read the same part.
    """
    shards: dict[int, list[int]] = {}
    for row, devices in enumerate(mesh.devices):
        for process in {d.process_index for d in devices}:
            shards.setdefault(process, []).append(row)
    parts = sorted({tuple(rows) for rows in shards.values()})
    if sum(map(len, parts)) != len(mesh.devices) or len({len(part) for part in parts}) > 1:
        raise InputError(
            f"the {len(mesh.devices)} data shards do not fall to the {len(shards)} processes in equal parts; "
            "set NUM_MODEL_PARTITIONS to a divisor or a multiple of the devices of a process"
        )
    return parts.index(tuple(shards[jax.process_index()])), len(parts)


def put_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Moves this process's part of a batch (`process_share`) to the devices: row-sharded global arrays.

    Its rows go to its data shards in their order, so the global batch has the same rows for any number of processes.
    """
    sharding = batch_sharding(mesh)
    if sharding.is_fully_addressable:
        return {name: jax.device_put(array, sharding) for name, array in batch.items()}
    local = [row for row, devices in enumerate(mesh.devices) if any(d in sharding.addressable_devices for d in devices)]

    def put(array: np.ndarray) -> jax.Array:
        rows = len(array) // len(local)  # of one shard

        def shard(index: Any) -> np.ndarray:
            position = local.index((index[0].start or 0) // rows)
            return array[position * rows : (position + 1) * rows]

        return jax.make_array_from_callback((rows * len(mesh.devices), *array.shape[1:]), sharding, shard)

    return {name: put(array) for name, array in batch.items()}
