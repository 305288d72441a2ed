"""The matrix-product peak of a device: what model FLOP utilisation is a share of.

Accelerators: their makers' data sheets, dense (without sparsity), one chip. A CPU has no such sheet that holds for the
cores a process was given, so its peak is measured: the best of a few large products of the compute type.
"""

from __future__ import annotations

import time
from functools import cache

import jax
import jax.numpy as jnp

# device_kind (lower case, in part) -> bfloat16 FLOP/s of one chip. The first that matches counts.
BFLOAT16_PEAKS = (
    ("h200", 989e12),
    ("h100 pcie", 756e12),
    ("h100", 989e12),
    ("b200", 2250e12),
    ("a100", 312e12),
    ("l40s", 362e12),
    ("l4", 121e12),
    ("v100", 125e12),  # float16
    ("t4", 65e12),  # float16
    ("tpu v6", 918e12),
    ("tpu v5p", 459e12),
    ("tpu v5 lite", 197e12),
    ("tpu v5e", 197e12),
    ("tpu v5", 459e12),
    ("tpu v4", 275e12),
    ("tpu v3", 61.5e12),  # a core: JAX shows two a chip
    ("tpu v2", 22.5e12),
)
_PRODUCT_SIZE = 2048
_PRODUCTS = 5


def peak_flops(device: jax.Device, dtype: str = "bfloat16") -> float | None:
    """Returns the peak FLOP/s of one device, None for one that is not in the table.

    `dtype` is the compute type and matters on a CPU alone: elsewhere the bfloat16 peak is what is quoted, whatever a
    run computes in, so that float32 shows as the low utilisation that it is.
    """
    if device.platform == "cpu":
        return _measured_peak(dtype)
    kind = device.device_kind.lower()
    return next((peak for name, peak in BFLOAT16_PEAKS if name in kind), None)


@cache
def _measured_peak(dtype: str) -> float:
    """Best of a few products [n, n] @ [n, n] on the default device; about a second."""
    x = jnp.ones((_PRODUCT_SIZE, _PRODUCT_SIZE), dtype)
    multiply = jax.jit(lambda a, b: a @ b)
    multiply(x, x).block_until_ready()
    seconds = []
    for _ in range(_PRODUCTS):
        start = time.perf_counter()
        multiply(x, x).block_until_ready()
        seconds.append(time.perf_counter() - start)
    return 2 * _PRODUCT_SIZE**3 / min(seconds)
