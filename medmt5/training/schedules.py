"""Learning rate as a function of the step, in T5X's shapes. Each returns an optax schedule: step -> float32."""

from __future__ import annotations

import jax.numpy as jnp
import optax


def constant(learning_rate: float, warmup_steps: int = 0) -> optax.Schedule:
    """`learning_rate`, after a linear warm-up from 0 (the paper's pre-training: 0.001)."""

    def schedule(step):
        return learning_rate * jnp.minimum(1.0, (step + 1) / max(warmup_steps, 1))

    return schedule


def rsqrt(learning_rate: float, warmup_steps: int) -> optax.Schedule:
    """`learning_rate` / sqrt(max(step, warmup_steps)): mT5's own pre-training, with learning_rate 1.0 and 10,000."""
    return lambda step: learning_rate / jnp.sqrt(jnp.maximum(step, warmup_steps))


def cosine(learning_rate: float, train_steps: int, warmup_steps: int = 0) -> optax.Schedule:
    """Linear warm-up, then half a cosine down to 0 at `train_steps` (the authors' fine-tuning: 1e-4, 500 warm-up
    steps).
    """

    def schedule(step):
        warm = jnp.minimum(1.0, (step + 1) / max(warmup_steps, 1))
        progress = jnp.clip((step - warmup_steps) / max(train_steps - warmup_steps, 1), 0.0, 1.0)
        return learning_rate * warm * 0.5 * (1 + jnp.cos(jnp.pi * progress))

    return schedule
