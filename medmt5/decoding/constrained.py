"""Constrained labelling with an mT5: encode once, project keys and values once, then search on the device.

Ids in, hypotheses out; words, labels and text are the caller's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from medmt5 import partitioning
from medmt5.decoding.label_automaton import LabelTables
from medmt5.decoding.search import LabelHypotheses, Scoring, search_labels
from medmt5.model import mt5


def make_label_decoder(
    config: mt5.MT5Config,
    mesh: Mesh,
    *,
    beam_size: int,
    scoring: Scoring = "full",
    normalize_length: bool = True,
) -> Callable[[Any, jax.Array, LabelTables, int], LabelHypotheses]:
    """Returns decode(params, encoder_tokens [batch, inputs] int32, tables, num_steps) -> LabelHypotheses.

    Compiles once for each shape of (batch, inputs, pieces, labels, num_steps). `num_steps` bounds the tokens of an
    output.
    """
    model = mt5.MT5(config)

    def decode(params, encoder_tokens, tables, num_steps):
        encoded: Any = model.apply({"params": params}, encoder_tokens, method="encode")
        cross = mt5.cross_keys_values(config, params, encoded)
        cross = jax.tree.map(lambda x: jnp.repeat(x, beam_size, axis=1), cross)
        encoded_mask = jnp.repeat(encoder_tokens > 0, beam_size, axis=0)

        def step(cache, tokens, index):
            return model.apply({"params": params}, tokens, cache, cross, encoded_mask, index, method="decode_step")

        return search_labels(
            step,
            mt5.empty_cache(config, encoder_tokens.shape[0] * beam_size, num_steps),
            mt5.output_kernel(params),
            tables,
            beam_size=beam_size,
            num_steps=num_steps,
            scoring=scoring,
            normalize_length=normalize_length,
        )

    jitted = jax.jit(decode, static_argnums=3)

    def call(params, encoder_tokens, tables, num_steps):
        with partitioning.compute_context(mesh):
            return jitted(params, encoder_tokens, tables, num_steps)

    return call
