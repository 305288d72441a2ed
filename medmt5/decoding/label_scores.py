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
        ids, allowed = candidates(tables, state)
        columns = jax.vmap(lambda of_sentence, slots: of_sentence[slots])(
            sentence_kernel, candidate_slots(tables, state)
        )
        # HIGHEST: accelerators would else round float32 factors, and the two products differently.
        logits = jnp.einsum("bkf,bkcf->bkc", hidden, columns, precision=jax.lax.Precision.HIGHEST)
        local = logits - jax.nn.logsumexp(jnp.where(allowed, logits, -jnp.inf), axis=-1, keepdims=True)
        if scoring == "local":
            return _finite(local, allowed), _finite(local, allowed)
        all_logits = jnp.einsum("bkf,fv->bkv", hidden, kernel, precision=jax.lax.Precision.HIGHEST)
        if scoring == "marginal":
            return _finite(_marginal(logits, all_logits, ids, allowed), allowed), _finite(local, allowed)
        log_probs = logits - jax.nn.logsumexp(all_logits, axis=-1, keepdims=True)
        return _finite(log_probs, allowed), _finite(local, allowed)

    return score


def _marginal(logits: jax.Array, all_logits: jax.Array, ids: jax.Array, allowed: jax.Array) -> jax.Array:
    """Log-probabilities of the permitted tags, and for a copy that of all else; tags share 1 where there is no copy.

    What is left is summed without the tags, not taken as 1 - theirs: next to 1 that would have no digits.
    """
    is_copy = jnp.arange(logits.shape[-1]) == COPY
    is_tag = allowed & ~is_copy
    # Places beyond the vocabulary are none.
    places = jnp.where(is_tag, ids, all_logits.shape[-1])
    without = jax.vmap(jax.vmap(lambda row, at: row.at[at].set(-jnp.inf, mode="drop")))(all_logits, places)
    may_copy = allowed[..., COPY : COPY + 1]
    rest = jnp.where(may_copy, jax.nn.logsumexp(without, axis=-1, keepdims=True), -jnp.inf)
    tags = jax.nn.logsumexp(jnp.where(is_tag, logits, -jnp.inf), axis=-1, keepdims=True)
    return jnp.where(is_copy, rest, logits) - jnp.logaddexp(rest, tags)


def _finite(log_probs: jax.Array, allowed: jax.Array) -> jax.Array:
    """FLOOR where the model overflowed, NaN included, and -inf where the automaton forbids."""
    return jnp.where(allowed, jnp.where(log_probs > FLOOR, log_probs, FLOOR), -jnp.inf)
