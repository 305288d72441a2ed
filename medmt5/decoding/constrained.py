"""Constrained labelling with an mT5: `search` over its token tree, as one compiled program.

Ids in, hypotheses out; words, labels and text are the caller's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh

from medmt5 import partitioning
from medmt5.decoding.label_automaton import LabelTables
from medmt5.decoding.label_beams import LabelHypotheses
from medmt5.decoding.label_scores import Scoring
from medmt5.decoding.search import search_labels
from medmt5.decoding.token_tree import make_decoder
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

    # A CPU pays for every token of a pass, an accelerator for the pass: there more is fed ahead.
    on_cpu = mesh.devices.flat[0].platform == "cpu"
    tokens_per_pass = max(4, beam_size) if on_cpu else max(16, 4 * beam_size)

    def decode(params, encoder_tokens, tables, num_steps):
        decoder = make_decoder(config, params, encoder_tokens, longest=num_steps)
        return search_labels(
            decoder.extend,
            decoder.empty(),
            mt5.output_kernel(params),
            tables,
            beam_size=beam_size,
            num_steps=num_steps,
            scoring=scoring,
            normalize_length=normalize_length,
            tokens_per_pass=tokens_per_pass,
        )

    return partitioning.in_context(jax.jit(decode, static_argnums=3), mesh)
