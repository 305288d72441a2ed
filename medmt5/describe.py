"""What a recipe would do on devices that need not be there: where each parameter lies, memory and time of a step.

Shapes, shardings and the traced model are all it reads, so an mT5-xxl on a pod is planned on a laptop, in seconds.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import jax
from flax import linen as nn
from rich import box
from rich.console import Console
from rich.table import Table

from medmt5 import partitioning
from medmt5.errors import InputError
from medmt5.model import flops
from medmt5.model.mt5 import param_shapes
from medmt5.train import Experiment
from medmt5.training import device_peaks, step_memory, trainable
from medmt5.training import step as steps
from medmt5.training.step_memory import StepMemory

USABLE_MEMORY = 0.9  # of a device's: the rest goes to the runtime, its collectives and fragmentation


@dataclasses.dataclass(frozen=True)
class Parameter:
    """One parameter (a whole stack of layers): logical axes and mesh axis of each dimension, bytes on one device."""

    name: str
    shape: tuple[int, ...]
    axes: tuple[str | None, ...]
    sharding: tuple[str | None, ...]
    bytes_per_device: int
    optimizer_bytes_per_device: int
    trained: bool


@dataclasses.dataclass(frozen=True)
class Plan:
    """A recipe on `data` x `model` devices. Times are None for a device without a data sheet in `device_peaks`."""

    device_kind: str
    data: int
    model: int
    num_parameters: int
    num_trained_parameters: int
    parameters: tuple[Parameter, ...]
    memory: StepMemory
    device_memory_bytes: int | None
    flops_per_step: int
    input_tokens_per_step: int
    target_tokens_per_step: int
    train_steps: int
    assumed_mfu: float
    seconds_per_step: float | None

    @property
    def hours(self) -> float | None:
        return None if self.seconds_per_step is None else self.seconds_per_step * self.train_steps / 3600

    @property
    def fits(self) -> bool | None:
        """Whether a step fits into a device's memory; None where that is not known."""
        limit = self.device_memory_bytes
        return None if limit is None else self.memory.total <= USABLE_MEMORY * limit

    def to_json(self) -> dict[str, Any]:
        """Returns everything, bytes and FLOPs as whole numbers."""
        return dataclasses.asdict(self) | {
            "memory": dataclasses.asdict(self.memory) | {"total": self.memory.total},
            "fits": self.fits,
            "hours": self.hours,
        }


def describe(
    experiment: Experiment,
    *,
    num_devices: int | None = None,
    device_kind: str | None = None,
    mfu: float | None = None,
) -> Plan:
    """Returns the plan of `experiment` on `num_devices` devices of a kind; None = those of this machine.

    `mfu`: the share of the peak that a step is assumed to reach; None = `device_peaks.USUAL_MFU`.
    """
    if mfu is None:
        mfu = device_peaks.USUAL_MFU
    if not 0 < mfu <= 1:
        raise InputError(f"--mfu is a share of the peak, above 0 and at most 1, not {mfu}")
    if num_devices is not None and num_devices < 1:
        raise InputError(f"--devices must be at least 1, not {num_devices}")
    if device_kind is None:
        device_kind = jax.devices()[0].device_kind
    elif device_peaks.bfloat16_peak(device_kind) is None and device_kind.lower() != "cpu":
        known = ", ".join(name for name, _ in device_peaks.BFLOAT16_PEAKS)
        raise InputError(f"--device_kind {device_kind!r} is not known; use one that contains one of: {known}, cpu")
    e = experiment
    mesh = e.partitioning.plan_mesh(num_devices or jax.device_count())
    data, model = mesh.shape["data"], mesh.shape["model"]
    partitioning.check_divisible(
        mesh,
        batch_size=e.batch_size,
        dimensions={"num_heads": e.model.num_heads, "mlp_dim": e.model.mlp_dim, "VOCAB_SIZE": e.model.vocab_size},
    )
    steps.check_microbatches(e.batch_size, data, e.num_microbatches)
    optimizer = trainable.keep_state_of(e.optimizer, e.trained)
    shapes, shardings = steps.state_shardings(e.model, optimizer, mesh, e.partitioning)
    partitioning.check_parameters_divide(shapes.params, shardings.params)
    inputs, targets = e.feature_lengths["inputs"], e.feature_lengths["targets"]
    step_flops = flops.train_step_flops(e.model, e.batch_size, inputs, targets, e.trained)
    peak = device_peaks.bfloat16_peak(device_kind)
    return Plan(
        device_kind=device_kind,
        data=data,
        model=model,
        num_parameters=_count(shapes.params),
        num_trained_parameters=_count(trainable.split(shapes.params, e.trained)[0]),
        parameters=_parameters(e, shapes, shardings),
        memory=step_memory.predict(
            e.model,
            shapes,
            shardings,
            e.partitioning,
            batch_size=e.batch_size,
            inputs=inputs,
            targets=targets,
            num_microbatches=e.num_microbatches,
            packed=e.pack,
            trained=e.trained,
        ),
        device_memory_bytes=device_peaks.memory_bytes(device_kind),
        flops_per_step=step_flops,
        input_tokens_per_step=e.batch_size * inputs,
        target_tokens_per_step=e.batch_size * targets,
        train_steps=e.train_steps,
        assumed_mfu=mfu,
        seconds_per_step=None if peak is None else step_flops / (data * model * peak * mfu),
    )


def print_plan(plan: Plan, as_json: bool = False) -> None:
    """Prints the tables, or one JSON object, to standard output."""
    if as_json:
        print(json.dumps(plan.to_json()))
        return
    console = Console(width=None if Console().is_terminal else 160, soft_wrap=False)
    console.print(parameter_table(plan), _memory_table(plan), sep="\n")
    console.print(_summary(plan), highlight=False, soft_wrap=True)


def parameter_table(plan: Plan) -> Table:
    table = Table(
        box=box.SIMPLE_HEAD,
        title=f"{plan.num_parameters / 1e6:,.1f} M parameters{_trained_share(plan)}",
        title_justify="left",
    )
    for name in ("parameter", "shape", "logical axes", "sharding"):
        table.add_column(name)
    table.add_column("a device", justify="right")
    table.add_column("its optimizer state", justify="right")
    for p in plan.parameters:
        sizes = _size(p.bytes_per_device), _size(p.optimizer_bytes_per_device) if p.trained else "frozen"
        table.add_row(p.name, _tuple(p.shape), _tuple(p.axes), _tuple(p.sharding), *sizes)
    return table


def _trained_share(plan: Plan) -> str:
    trained = plan.num_trained_parameters
    return "" if trained == plan.num_parameters else f", {trained / 1e6:,.2f} M of them trained"


def _count(tree: Any) -> int:
    return sum(x.size for x in jax.tree.leaves(tree))


def _memory_table(plan: Plan) -> Table:
    m = plan.memory
    table = Table(box=box.SIMPLE_HEAD, title="Memory of a step, predicted", title_justify="left")
    table.add_column("what")
    table.add_column("a device", justify="right")
    rows = {
        "parameters": m.parameters,
        "optimizer state": m.optimizer_state,
        "saved for the backward pass": m.saved,
        "and the largest of: vocabulary loss": m.loss,
        "  gradients, backward through a layer": m.layers,
        "  gradients, the embedding's among them": m.embedding,
    }
    for name, value in rows.items():
        table.add_row(name, _size(value))
    table.add_row("total", _size(m.total), style="bold")
    return table


def _summary(plan: Plan) -> str:
    devices = plan.data * plan.model
    lines = [
        f"mesh: {devices} x {plan.device_kind}, data {plan.data} x model {plan.model}",
        f"step: {plan.flops_per_step:.3g} FLOPs, {plan.input_tokens_per_step:,} input and "
        f"{plan.target_tokens_per_step:,} target tokens",
    ]
    if plan.seconds_per_step is not None:
        rate = plan.input_tokens_per_step / plan.seconds_per_step
        lines.append(
            f"time: {plan.seconds_per_step:.3g} s a step, {rate:,.0f} input tokens/s, {plan.hours:,.1f} h for "
            f"{plan.train_steps:,} steps, if {plan.assumed_mfu:.0%} of the peak is reached (--mfu; "
            "measured on one H100 alone)"
        )
    if plan.device_memory_bytes is not None:
        share = plan.memory.total / plan.device_memory_bytes
        lines.append(f"memory: {share:.0%} of a device's {_size(plan.device_memory_bytes)}")
        if not plan.fits:
            lines.append(
                "WARNING: that does not fit (10 % should stay free); use more devices, a mesh with FSDP, a larger "
                "NUM_MODEL_PARTITIONS or NUM_MICROBATCHES, REMAT_POLICY 'minimal' or 'full', or train less of the "
                "model (LORA_RANK, TRAINABLE)"
            )
    return "\n".join(lines)


def _parameters(e: Experiment, shapes: steps.TrainState, shardings: steps.TrainState) -> tuple[Parameter, ...]:
    specs = nn.get_partition_spec(param_shapes(e.model))
    axes = jax.tree.leaves(specs, is_leaf=lambda x: isinstance(x, jax.sharding.PartitionSpec))
    leaves = jax.tree_util.tree_leaves_with_path(shapes.params)
    names = [_path(path) for path, _ in leaves]
    optimizer_bytes = _bytes_by_parameter(names, shapes.opt_state, shardings.opt_state)
    return tuple(
        Parameter(
            name,
            leaf.shape,
            _padded(names_of_axes, leaf.ndim),
            _padded(sharding.spec, leaf.ndim),
            step_memory.shard_bytes(leaf, sharding),
            optimizer_bytes[name],
            e.trained is None or name in e.trained,
        )
        for name, (_, leaf), names_of_axes, sharding in zip(
            names, leaves, axes, jax.tree.leaves(shardings.params), strict=True
        )
    )


def _bytes_by_parameter(names: list[str], opt_state: Any, shardings: Any) -> dict[str, int]:
    """Sums what the optimizer keeps for each parameter: the leaves whose path ends in the parameter's."""
    sums = dict.fromkeys(names, 0)
    for (path, leaf), sharding in zip(
        jax.tree_util.tree_leaves_with_path(opt_state), jax.tree.leaves(shardings), strict=True
    ):
        parts = _path(path).split("/")
        owner = next((o for i in range(len(parts)) if (o := "/".join(parts[i:])) in sums), None)
        if owner is not None:
            sums[owner] += step_memory.shard_bytes(leaf, sharding)
    return sums


def _path(path: tuple) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _padded(spec: Any, ndim: int) -> tuple[str | None, ...]:
    return (*spec, *[None] * (ndim - len(spec)))


def _tuple(values: tuple) -> str:
    return f"({', '.join('-' if v is None else str(v) for v in values)})"


def _size(count: int) -> str:
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= size:
            return f"{count / size:,.2f} {unit}"
    return f"{count} B"
