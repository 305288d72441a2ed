"""The matrix-product peak of a device, what model FLOP utilisation is a share of, and the size of its memory.

Accelerators: their makers' data sheets, dense (without sparsity), with float32 sums, one chip. A CPU has no such
sheet that holds for the cores a process was given, so its peak is measured: the best of a few large products of the
compute type.
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
    ("a10g", 70e12),
    ("a10", 125e12),
    ("l40s", 362e12),
    ("l4", 121e12),
    ("rtx 3090", 71e12),
    ("rtx 4090", 165.2e12),
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
# device_kind (lower case, in part) -> GiB of memory of one chip, as sold. The first that matches counts.
MEMORY_GIB = (
    ("h200", 141),
    ("h100", 80),
    ("b200", 180),
    ("a100-sxm4-40gb", 40),
    ("a100-pcie-40gb", 40),
    ("a100", 80),
    ("a10", 24),  # A10G too
    ("l40s", 48),
    ("l4", 24),
    ("rtx 3090", 24),
    ("rtx 4090", 24),
    ("v100-sxm2-32gb", 32),
    ("v100", 16),
    ("t4", 16),
    ("tpu v6", 32),
    ("tpu v5p", 95),
    ("tpu v5 lite", 16),
    ("tpu v5e", 16),
    ("tpu v5", 95),
    ("tpu v4", 32),
    ("tpu v3", 16),  # a core
    ("tpu v2", 8),
)
USUAL_MFU = 0.3  # the share of the peak that a step reaches: mT5-large on an H100 0.31 (docs/numbers.md)
_PRODUCT_SIZE = 2048
_PRODUCTS = 5


def peak_flops(device: jax.Device, dtype: str = "bfloat16") -> float | None:
    """Returns the peak FLOP/s of one device, None for one that is not in the table.

    `dtype` is the compute type and matters on a CPU alone: elsewhere the bfloat16 peak is what is quoted, whatever a
    run computes in, so that float32 shows as the low utilisation that it is.
    """
    if device.platform == "cpu":
        return _measured_peak(dtype)
    return bfloat16_peak(device.device_kind)


def bfloat16_peak(device_kind: str) -> float | None:
    """Returns the data sheet's FLOP/s of one chip, e.g. of "TPU v4"; None for one that is not in the table."""
    return _first_match(BFLOAT16_PEAKS, device_kind)


def memory_bytes(device_kind: str) -> int | None:
    """Returns the bytes of memory of one chip; None for one that is not in the table."""
    gib = _first_match(MEMORY_GIB, device_kind)
    return None if gib is None else int(gib * 2**30)


def _first_match(table: tuple[tuple[str, float], ...], device_kind: str) -> float | None:
    return next((value for name, value in table if name in device_kind.lower()), None)


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
