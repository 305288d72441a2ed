"""What a candidate of the label search costs: its logit less a normaliser, in float32.

Logits come from the few output columns a sentence can ever use, gathered once before the search; the normaliser is the
choice:

    full      log-sum-exp over the whole vocabulary: the model's own probability, as the Medical mT5 authors score
    local     log-sum-exp over the permitted candidates: forced tokens are free and wait until the next decision, the
              vocabulary is never read
    marginal  as full, but a copy gets all the probability that no permitted tag has: whatever else the model would
              write there, the copy is what is written. Asks only "a tag, or not?", so a model that does not (yet) copy
              well is not pushed into tags by words that it cannot spell; for one that copies well it is `full`
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp

from medmt5.decoding.beam import FLOOR
from medmt5.decoding.label_automaton import COPY, LabelTables, State, candidate_slots, candidates, sentence_ids

Scoring = Literal["full", "local", "marginal"]
ScoreFn = Callable[[jax.Array, State], tuple[jax.Array, jax.Array]]


def make_score(output_kernel: jax.Array, tables: LabelTables, scoring: Scoring) -> ScoreFn:
    """Returns score(hidden [batch, nodes, features] float32, State [batch, nodes]) -> (by `scoring`, by local), both
    [batch, nodes, 2 + labels]: finite where the automaton allows a candidate, else -inf.
    """
    kernel = output_kernel.astype(jnp.float32)
    sentence_kernel = jnp.moveaxis(jnp.take(kernel, sentence_ids(tables), axis=1), 0, -1)  # [batch, slots, features]

    def score(hidden: jax.Array, state: State) -> tuple[jax.Array, jax.Array]:
        _, allowed = candidates(tables, state)
        columns = jax.vmap(lambda of_sentence, slots: of_sentence[slots])(
            sentence_kernel, candidate_slots(tables, state)
        )
        # HIGHEST: accelerators would else round float32 factors, and the two products differently.
        logits = jnp.einsum("bkf,bkcf->bkc", hidden, columns, precision=jax.lax.Precision.HIGHEST)
        local = logits - jax.nn.logsumexp(jnp.where(allowed, logits, -jnp.inf), axis=-1, keepdims=True)
        log_probs = local
        if scoring != "local":
            all_logits = jnp.einsum("bkf,fv->bkv", hidden, kernel, precision=jax.lax.Precision.HIGHEST)
            log_probs = logits - jax.nn.logsumexp(all_logits, axis=-1, keepdims=True)
        if scoring == "marginal":
            log_probs = _give_rest_to_copy(log_probs, allowed)
        return _finite(log_probs, allowed), _finite(local, allowed)

    return score


def _finite(log_probs: jax.Array, allowed: jax.Array) -> jax.Array:
    """FLOOR where the model overflowed, NaN included, and -inf where the automaton forbids."""
    return jnp.where(allowed, jnp.where(log_probs > FLOOR, log_probs, FLOOR), -jnp.inf)


def _give_rest_to_copy(log_probs: jax.Array, allowed: jax.Array) -> jax.Array:
    """[batch, nodes, candidates] -> the same: a copy gets 1 - the other permitted ones, which share 1 without it."""
    is_copy = jnp.arange(log_probs.shape[-1]) == COPY
    others = jax.nn.logsumexp(jnp.where(allowed & ~is_copy, log_probs, -jnp.inf), axis=-1, keepdims=True)
    may_copy = allowed[..., COPY : COPY + 1]
    rest = jnp.log(-jnp.expm1(jnp.where(may_copy, jnp.minimum(others, -1e-7), -1.0)))
    return jnp.where(is_copy, rest, log_probs - jnp.where(may_copy, 0.0, others))
