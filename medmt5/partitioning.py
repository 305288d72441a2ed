"""The device mesh, and which logical axis of the model lies on which mesh axis.

Hardware: n devices, over one or more hosts. Logical mesh:

              model (NUM_MODEL_PARTITIONS, tensor parallel)
            +----+----+
            | d0 | d1 |      data parallel runs down: each row sees other examples,
      data  +----+----+      each column holds another part of heads, mlp and vocabulary.
            | d2 | d3 |
            +----+----+

The model names its axes; two maps say where they go. Compute (activations): batch -> data; heads, mlp, vocab -> model.
Parameters and optimizer state: the same, and with `shard_parameters_over_data` (FSDP, ZeRO-3) also embed -> data.
Nothing else knows devices.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from medmt5.errors import InputError

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

    def make_mesh(self) -> Mesh:
        devices = jax.devices()
        count = self.num_devices or len(devices)
        if count > len(devices):
            raise InputError(
                f"{count} devices asked for, {len(devices)} {devices[0].platform} devices found; lower num_devices"
            )
        if count % self.num_model_partitions:
            raise InputError(
                f"{count} devices cannot be split into groups of NUM_MODEL_PARTITIONS = {self.num_model_partitions}; "
                f"set it to a divisor of {count}"
            )
        shape = (count // self.num_model_partitions, self.num_model_partitions)
        # GSPMD propagates shardings under Auto axes; make_mesh's default is Explicit.
        return jax.make_mesh(shape, ("data", "model"), axis_types=(AxisType.Auto,) * 2, devices=devices[:count])

    @property
    def parameter_rules(self) -> tuple[tuple[str, str | None], ...]:
        rules = dict(COMPUTE_RULES)
        if self.shard_parameters_over_data:
            rules["embed"] = "data"
        return tuple(rules.items())


@contextmanager
def compute_context(mesh: Mesh) -> Iterator[None]:
    """Makes the logical constraints inside the model mean `mesh` while a step is traced."""
    with jax.sharding.set_mesh(mesh), nn.logical_axis_rules(COMPUTE_RULES):
        yield


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows over `data`, everything else whole."""
    return NamedSharding(mesh, PartitionSpec("data"))


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def parameter_shardings(boxed_params: Any, mesh: Mesh, partitioning: Partitioning) -> Any:
    """Returns a NamedSharding a parameter, from the axis names boxed around it (arrays or ShapeDtypeStructs)."""
    return nn.logical_to_mesh_sharding(nn.get_partition_spec(boxed_params), mesh, partitioning.parameter_rules)


def check_divisible(mesh: Mesh, *, batch_size: int, dimensions: dict[str, int]) -> None:
    """Raises InputError where a batch or a model dimension does not divide by its mesh axis.

    `dimensions`: logical axis -> size, e.g. {"heads": 6, "mlp": 1024, "vocab": 250112}.
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


def put_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Moves this process's rows of a batch to the devices: row-sharded global arrays."""
    sharding = batch_sharding(mesh)
    return {name: jax.make_array_from_process_local_data(sharding, array) for name, array in batch.items()}
