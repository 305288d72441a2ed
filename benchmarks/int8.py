"""What int8 weights would do to `medmt5 label` on a CPU: to its F1, and to the time of its products.

    python benchmarks/int8.py round demo/finetune rounded    # then: medmt5 evaluate --checkpoint rounded …
    python benchmarks/int8.py time

`round` writes a MODEL_DIR whose matrices hold only what int8 can: 255 levels times a scale for each output (each row of
the embedding). `time` compares x W in float32 and bfloat16 with (x W) * scale, where W is made of int8 under the same
jit, in the shapes of mT5-large's decoder; rows are sentences times tokens a pass. Nothing in medmt5 reads int8
(docs/numbers.md).
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from medmt5.conversion.checkpoint import write_checkpoint
from medmt5.conversion.formats import open_source
from medmt5.conversion.weights import TensorInfo, Weights
from medmt5.model_files import appearing, read_model_files, write_model_files

SHAPES = {"attention": (1024, 1024), "mlp": (1024, 2816), "vocabulary": (1024, 250112)}
ROWS = (8, 32, 128)


class Rounded:
    """`Weights` whose matrices are rounded to int8 and back; `bytes` counts what int8 and its scales would take."""

    def __init__(self, weights: Weights):
        self._weights = weights
        self.bytes = 0

    def tensors(self) -> dict[str, TensorInfo]:
        return self._weights.tensors()

    def read(self, name: str, index: tuple[slice, ...] | None = None) -> np.ndarray:
        whole = self._weights.read(name)
        if not name.endswith(("/kernel", "/embedding")):  # norms, relative positions
            self.bytes += whole.nbytes
            return whole[index or ...]
        inputs = -1 if name.endswith("embedding") else -2
        scale = np.abs(whole).max(axis=inputs, keepdims=True) / 127
        self.bytes += whole.size + scale.nbytes
        levels = np.rint(whole / np.where(scale > 0, scale, 1)).astype(np.int8)
        return (levels * scale).astype(np.float32)[index or ...]


def write_rounded(source: Path, target: Path) -> None:
    opened = open_source(source)
    rounded = Rounded(opened.weights)
    with appearing(target.absolute()) as folder:
        write_checkpoint(folder / opened.path.name, rounded, lambda count: None)
        write_model_files(folder, read_model_files(opened.path))
    whole = sum(4 * int(np.prod(info.shape)) for info in opened.weights.tensors().values())
    print(f"{whole / 1e6:.2f} MB in float32, {rounded.bytes / 1e6:.2f} MB in int8 with scales")


def float_product(x, w):
    return jnp.einsum("ri,io->ro", x, w, preferred_element_type=jnp.float32)


def int8_product(x, w, scale):
    return float_product(x, w.astype(x.dtype)) * scale


def milliseconds(calls: dict[str, tuple]) -> dict[str, float]:
    """Returns the best of 25 rounds, in turns: other work on the machine slows all alike, or is passed by."""
    compiled = {name: (jax.jit(function), arguments) for name, (function, *arguments) in calls.items()}
    best = dict.fromkeys(calls, float("inf"))
    for _ in range(25):
        for name, (function, arguments) in compiled.items():
            start = time.perf_counter()
            jax.block_until_ready(function(*arguments))
            best[name] = min(best[name], 1000 * (time.perf_counter() - start))
    return best


def time_products() -> None:
    rng = np.random.default_rng(0)
    print(f"jax {jax.__version__}; ms a product, best of 25")
    for name, (inputs, outputs) in SHAPES.items():
        w = jnp.asarray(rng.standard_normal((inputs, outputs), np.float32))
        scale = jnp.abs(w).max(0) / 127
        levels = jnp.rint(w / scale).astype(jnp.int8)
        half = w.astype(jnp.bfloat16)
        for rows in ROWS:
            x = jnp.asarray(rng.standard_normal((rows, inputs), np.float32))
            thin = x.astype(jnp.bfloat16)
            times = milliseconds(
                {
                    "float32": (float_product, x, w),
                    "int8 as float32": (int8_product, x, levels, scale),
                    "bfloat16": (float_product, thin, half),
                    "int8 as bfloat16": (int8_product, thin, levels, scale),
                }
            )
            temporary = jax.jit(int8_product).lower(x, levels, scale).compile().memory_analysis().temp_size_in_bytes
            shown = ", ".join(f"{kind} {value:.2f}" for kind, value in times.items())
            print(
                f"{name} {inputs} x {outputs}, {rows} rows: {shown}; temporary {temporary / 2**20:.0f} MiB", flush=True
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    rounding = commands.add_parser("round")
    rounding.add_argument("source", type=Path)
    rounding.add_argument("target", type=Path)
    commands.add_parser("time")
    arguments = parser.parse_args()
    if arguments.command == "round":
        write_rounded(arguments.source, arguments.target)
    else:
        time_products()


if __name__ == "__main__":
    main()
