"""Constrained labelling with an mT5: `search` over its cached steps, as one compiled program.

Ids in, hypotheses out; words, labels and text are the caller's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh

from medmt5 import partitioning
from medmt5.decoding.cached_steps import cached_steps
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

    def decode(params, encoder_tokens, tables, num_steps):
        step_fn, cache = cached_steps(config, params, encoder_tokens, beam_size=beam_size, num_steps=num_steps)
        return search_labels(
            step_fn,
            cache,
            mt5.output_kernel(params),
            tables,
            beam_size=beam_size,
            num_steps=num_steps,
            scoring=scoring,
            normalize_length=normalize_length,
        )

    return partitioning.in_context(jax.jit(decode, static_argnums=3), mesh)
