"""Steps that must not count: a loss or gradient that is not finite, or a loss far above those before it.

Such a step leaves parameters and optimizer state as they were, bit for bit; its batch is used up, so the step number
goes on. The decision is made on the device, inside the jitted step, and nothing waits for it: the host learns of it
from the step's metrics (`skipped`, `skipped_in_a_row`) and stops a run in which too many follow each other.

What the decision remembers is part of the train state, so that a resumed run decides as one never stopped.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

RUNNING_STEPS = 100
"""About so many steps make the running mean that a spike is measured against."""


class History(NamedTuple):
    """What came before a step.

    running_loss: float32 scalar, mean loss a target token of about the last `RUNNING_STEPS` steps that counted; 0
      before the first. skipped_in_a_row: int32 scalar.
    """

    running_loss: Any
    skipped_in_a_row: Any


def start() -> History:
    return History(jnp.float32(0), jnp.int32(0))


def judge(
    history: History, loss: jax.Array, gradient_norm: jax.Array, loss_spike_factor: float | None
) -> tuple[jax.Array, History]:
    """Returns whether a step counts (bool scalar), and the history after it.

    Args:
      loss: float32 scalar, mean a target token.
      gradient_norm: float32 scalar.
      loss_spike_factor: a loss above so many times the running mean does not count; None = any finite one does.
    """
    counts = jnp.isfinite(loss) & jnp.isfinite(gradient_norm)
    first = history.running_loss == 0
    if loss_spike_factor is not None:
        counts &= first | (loss <= loss_spike_factor * history.running_loss)
    running = jnp.where(first, loss, history.running_loss + (loss - history.running_loss) / RUNNING_STEPS)
    return counts, History(
        jnp.where(counts, running, history.running_loss),
        jnp.where(counts, 0, history.skipped_in_a_row + 1).astype(jnp.int32),
    )


def apply(counts: jax.Array, update: Callable[[], Any], old: Any) -> Any:
    """Returns `update()` where the step counts, else `old`, a tree of the same shapes.

    A branch around the whole update, not a select after it: a select is fused into the update, where the compiler
    then rounds differently, so that a run would get other bits from a safeguard that it never needs; and in a branch
    `old` may be overwritten in place. Measured on a CPU, an Adafactor update of 46 M parameters: branch 212 ms and
    178 MiB of temporary memory, select 336 ms and 352 MiB, neither of them 332 ms and 352 MiB.
    """
    return jax.lax.cond(counts, update, lambda: old)
