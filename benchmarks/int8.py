"""How long a product with int8 weights takes on a CPU beside one with floats, in XLA.

    python benchmarks/int8.py

Compares x W in float32 and bfloat16 with (x W) * scale, where W is made of int8 under the same jit, in the shapes of
mT5-large's decoder; rows are sentences times tokens a pass. It is why medmt5 reads int8 as float32 and computes with
that (docs/numbers.md).
"""

from __future__ import annotations

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np

SHAPES = {"attention": (1024, 1024), "mlp": (1024, 2816), "vocabulary": (1024, 250112)}
ROWS = (8, 32, 128)


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


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    time_products()
