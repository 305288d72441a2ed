"""One train step of a recipe: seconds, tokens/s, share of the matmul peak, memory, compile time.

    python benchmarks/step_time.py --recipe bench_small --steps 5

Synthetic batches without padding; the model, optimizer, mesh and objective are the recipe's own. The last line is one
JSON object. Tokens are inputs + targets; FLOPs are those of `medmt5/model/flops.py`; the peak is
`medmt5/training/device_peaks.py`'s: measured on a CPU, the data sheet's elsewhere. `time_to_first_step_seconds`
counts from the start of the process, imports and compilation included; a warm persistent compilation cache
makes it short.
"""

from __future__ import annotations

from medmt5.environment import prepare_process

if __name__ == "__main__":
    prepare_process()

import argparse
import json
import os
import platform
import statistics
import time
from importlib.metadata import version
from typing import Any

import jax
import numpy as np

from medmt5 import config, partitioning
from medmt5.batch import shift_right
from medmt5.configuration.statements import parse_flags
from medmt5.model.flops import train_step_flops
from medmt5.training import step as steps
from medmt5.training.device_peaks import peak_flops

WARMUP_STEPS = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], epilog=f"example: {__doc__.splitlines()[2]}")
    parser.add_argument("--recipe", required=True, help="a file of gin/recipe, without .gin")
    parser.add_argument("--batch", type=int, help="examples (default: the recipe's BATCH_SIZE)")
    parser.add_argument("--inputs", type=int, help="input tokens (default: the recipe's)")
    parser.add_argument("--targets", type=int, help="target tokens (default: the recipe's)")
    parser.add_argument("--dropout", type=float, help="default: the recipe's")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="compute type (default: the recipe's)")
    parser.add_argument("--mesh", help="a file of gin/mesh, without .gin (default: the recipe's)")
    parser.add_argument("--steps", type=int, default=10, help="timed steps, after two others (default: %(default)s)")
    parser.add_argument("--profile", metavar="DIR", help="also write a profile of three steps")
    args, rest = parser.parse_known_args()
    bindings, others = parse_flags(rest)
    if others:
        parser.error(f"unrecognized arguments: {' '.join(others)}")
    result = measure(_build(args, bindings), args.steps, args.profile)
    print(json.dumps({"recipe": args.recipe, **result}))


def _build(args: argparse.Namespace, bindings: list[str]) -> Any:
    files = [f"gin/recipe/{args.recipe}.gin"] + ([f"gin/mesh/{args.mesh}.gin"] if args.mesh else [])
    flags = {
        "BATCH_SIZE": args.batch,
        "DROPOUT_RATE": args.dropout,
        "ACTIVATION_DTYPE": args.dtype,
        "TASK_FEATURE_LENGTHS": {"inputs": args.inputs, "targets": args.targets} if args.inputs else None,
    }
    places = [f"{name} = 'none'" for name in ("MODEL_DIR", "TOKEN_STORE", "VOCABULARY")]
    given = [f"{name} = {value!r}" for name, value in flags.items() if value is not None]
    return config.build("train.Experiment", files, [*places, *given, *bindings]).value


def measure(e: Any, num_steps: int, profile: str | None = None) -> dict[str, Any]:
    """Returns the figures of `num_steps` train steps of an Experiment."""
    mesh = e.partitioning.make_mesh()
    inputs, targets = e.feature_lengths["inputs"], e.feature_lengths["targets"]
    _, shardings = steps.state_shardings(e.model, e.optimizer, mesh, e.partitioning)
    state = steps.create_state(e.model, e.optimizer, e.seed, shardings)
    batch = partitioning.put_batch(_batch(e.batch_size, inputs, targets, e.model.vocab_size), mesh)
    train_step = steps.make_train_step(
        e.model,
        e.optimizer,
        e.objective,
        seed=e.seed,
        mesh=mesh,
        shardings=shardings,
        num_microbatches=e.num_microbatches,
    )
    start = time.perf_counter()
    compiled = train_step.lower(state, batch).compile()
    compile_seconds = time.perf_counter() - start
    state, metrics = compiled(state, batch)
    loss_first = float(metrics["total"] / metrics["weight"])
    first_step_seconds = _seconds_since_process_start()
    seconds, loss = [], loss_first
    for i in range(WARMUP_STEPS - 1 + num_steps):
        start = time.perf_counter()
        state, metrics = compiled(state, batch)
        loss = float(metrics["total"] / metrics["weight"])  # waits for the step
        jax.block_until_ready(state)
        if i >= WARMUP_STEPS - 1:
            seconds.append(time.perf_counter() - start)
    if profile:
        with jax.profiler.trace(profile):
            for _ in range(3):
                state, metrics = compiled(state, batch)
            jax.block_until_ready(state)
    memory = _peak_memory(mesh)  # before the peak is measured, which takes some itself
    flops = train_step_flops(e.model, e.batch_size, inputs, targets)
    peak = peak_flops(mesh.devices.flat[0], e.model.dtype)
    devices = 1 if jax.default_backend() == "cpu" else mesh.size  # virtual CPU devices share the processor
    median = statistics.median(seconds)
    return {
        "batch": e.batch_size,
        "inputs": inputs,
        "targets": targets,
        "dropout": e.model.dropout_rate,
        "dtype": e.model.dtype,
        "mesh": dict(mesh.shape),
        "parameters": sum(x.size for x in jax.tree.leaves(state.params)),
        "steps": num_steps,
        "step_seconds_median": median,
        "step_seconds_min": min(seconds),
        "tokens_per_second": e.batch_size * (inputs + targets) / median,
        "step_flops": flops,
        "peak_flops": peak and peak * devices,
        "mfu": peak and flops / median / (peak * devices),
        "peak_memory_bytes": memory,
        "temporary_memory_bytes": compiled.memory_analysis().temp_size_in_bytes,
        "compile_seconds": compile_seconds,
        "time_to_first_step_seconds": first_step_seconds,
        "loss_first": loss_first,
        "loss_last": loss,
        "device": f"{mesh.size} x {mesh.devices.flat[0].device_kind}",
        "processor": _processor(),
        "cores": os.cpu_count(),
        "environment": {name: os.environ[name] for name in ("XLA_FLAGS", "GLIBC_TUNABLES") if name in os.environ},
        "versions": {
            "python": platform.python_version(),
            **{p: version(p) for p in ("jax", "jaxlib", "flax", "optax", "medmt5")},
        },
    }


def _batch(rows: int, inputs: int, targets: int, vocab_size: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    encoder, decoder = (rng.integers(3, vocab_size, (rows, n), dtype=np.int32) for n in (inputs, targets))
    encoder[:, -1] = decoder[:, -1] = 1
    return {
        "encoder_input_tokens": encoder,
        "decoder_input_tokens": shift_right(decoder),
        "decoder_target_tokens": decoder,
        "decoder_loss_weights": np.ones(decoder.shape, np.float32),
    }


def _peak_memory(mesh: jax.sharding.Mesh) -> int:
    """Peak bytes: of the first device where it counts them, else of the process (resident)."""
    stats = mesh.devices.flat[0].memory_stats()
    if stats:
        return stats["peak_bytes_in_use"]
    # Not getrusage: its peak is inherited from the process that started this one.
    with open("/proc/self/status", encoding="ascii") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def _seconds_since_process_start() -> float:
    with open("/proc/self/stat", encoding="ascii") as stat, open("/proc/uptime", encoding="ascii") as uptime:
        started = int(stat.read().rsplit(")", 1)[1].split()[19]) / os.sysconf("SC_CLK_TCK")
        return float(uptime.read().split()[0]) - started


def _processor() -> str:
    with open("/proc/cpuinfo", encoding="utf-8") as lines:
        return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


if __name__ == "__main__":
    main()
