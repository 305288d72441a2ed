"""LoRA (Hu et al. 2021): beside a frozen kernel W a product of two thin matrices, x W + alpha / rank * (x A) B.

A and B are the parameters `lora_a` [inputs, rank] and `lora_b` [rank, outputs] beside their `kernel`, so they are
stacked, scanned and sharded as it is. B starts at zero: at step 0 the model is its base.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from medmt5.errors import InputError

A, B = "lora_a", "lora_b"
TARGETS = ("query", "key", "value", "out", "wi_0", "wi_1", "wo")


@dataclasses.dataclass(frozen=True)
class LoRA:
    """Which kernels have adapters: `targets`, names of kernels of attention and MLP, of both stacks. Rank 0: none."""

    rank: int = 0
    alpha: float = 16.0
    targets: tuple[str, ...] = TARGETS

    def __post_init__(self):
        object.__setattr__(self, "targets", tuple(self.targets))  # gin may give a list, and modules are hashed
        if not isinstance(self.rank, int) or self.rank < 0:
            raise InputError(f"LORA_RANK must be a whole number, 0 for no adapters, not {self.rank!r}")
        if not self.alpha > 0:
            raise InputError(f"LORA_ALPHA must be above 0, not {self.alpha!r}: adapters are multiplied by alpha / rank")
        unknown = [name for name in self.targets if name not in TARGETS]
        if unknown or not self.targets:
            raise InputError(f"LORA_TARGETS must be some of {', '.join(TARGETS)}, not {self.targets!r}")

    def adapts(self, kernel: str) -> bool:
        return self.rank > 0 and kernel in self.targets

    @property
    def scale(self) -> float:
        return self.alpha / self.rank


NO_LORA = LoRA()


def merge_adapters(params: Mapping[str, Any], alpha: float) -> dict[str, Any]:
    """Returns the parameters of the plain model that computes the same: each kernel + alpha / rank * A B, no adapters.

    `params`: a tree as `mt5.init_params` makes it, unboxed; without adapters it comes back as it is.
    """
    if A in params:
        rank = params[A].shape[-1]
        delta = jnp.einsum("...ir,...ro->...io", params[A], params[B], precision=jax.lax.Precision.HIGHEST)
        return {"kernel": params["kernel"] + (alpha / rank) * delta}
    return {k: merge_adapters(v, alpha) if isinstance(v, Mapping) else v for k, v in params.items()}
