"""An mT5 as the step function of a search: encoded once, keys and values projected once, one cached pass a token."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from medmt5.decoding.beam import StepFn
from medmt5.model import mt5
from medmt5.model.attention import KeyValues


def cached_steps(
    config: mt5.MT5Config, params: Any, encoder_tokens: jax.Array, *, beam_size: int, num_steps: int
) -> tuple[StepFn, KeyValues]:
    """Returns (step_fn, cache) for `beam.beam_search` over inputs [batch, inputs] int32, 0 = padding."""
    model = mt5.MT5(config)
    encoded: Any = model.apply({"params": params}, encoder_tokens, method="encode")
    cross = mt5.cross_keys_values(config, params, encoded)
    cross = jax.tree.map(lambda x: jnp.repeat(x, beam_size, axis=1), cross)
    encoded_mask = jnp.repeat(encoder_tokens > 0, beam_size, axis=0)

    def step(cache, tokens, index):
        return model.apply({"params": params}, tokens, cache, cross, encoded_mask, index, method="decode_step")

    return step, mt5.empty_cache(config, encoder_tokens.shape[0] * beam_size, num_steps)
