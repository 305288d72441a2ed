"""What a candidate of the label search costs: its logit less a normaliser, in float32.

Logits come from the few output columns a sentence can ever use, gathered once before the search; the normaliser is the
choice:

    full      log-sum-exp over the whole vocabulary: the model's own probability, as the Medical mT5 authors score
    local     log-sum-exp over the permitted candidates: forced tokens are free and wait until the next decision, the
              vocabulary is never read
    marginal  as full, but a copy gets all the probability that no permitted tag has: whatever else the model would
              write there, the copy is what is written. Asks only "a tag, or not?", so a model that does not (yet) copy
              well is not pushed into tags by words that it cannot spell; for one that copies well it is `full`

Where what is written is both a word and a begun tag, `local` and `marginal` compare with what may come next in either
(`readings`): a token counts once, and one that goes on with the word is a copy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp

from medmt5.decoding.beam import FLOOR
from medmt5.decoding.label_automaton import COPY, OPEN, LabelTables, State, sentence_ids
from medmt5.decoding.readings import next_tokens

Scoring = Literal["full", "local", "marginal"]
ScoreFn = Callable[[jax.Array, State], tuple[jax.Array, jax.Array]]


def make_score(output_kernel: jax.Array, tables: LabelTables, scoring: Scoring) -> ScoreFn:
    """Returns score(hidden [batch, nodes, features] float32, State [batch, nodes]) -> (by `scoring`, by local), both
    [batch, nodes, 2 + labels]: finite where the automaton allows a candidate, else -inf.
    """
    kernel = output_kernel.astype(jnp.float32)
    sentence_kernel = jnp.moveaxis(jnp.take(kernel, sentence_ids(tables), axis=1), 0, -1)  # [batch, slots, features]

    num_candidates = OPEN + tables.open_ids.shape[0]

    def score(hidden: jax.Array, state: State) -> tuple[jax.Array, jax.Array]:
        slots, ids, allowed = next_tokens(tables, state)
        is_copy = jnp.arange(ids.shape[-1]) == COPY
        counts = allowed
        if tables.tags is not None:
            is_copy, counts = _copies(ids, allowed, num_candidates), _once(ids, allowed)
        columns = jax.vmap(lambda of_sentence, slots: of_sentence[slots])(sentence_kernel, slots)
        # HIGHEST: accelerators would else round float32 factors, and the two products differently.
        logits = jnp.einsum("bkf,bkcf->bkc", hidden, columns, precision=jax.lax.Precision.HIGHEST)
        local = logits - jax.nn.logsumexp(jnp.where(counts, logits, -jnp.inf), axis=-1, keepdims=True)
        log_probs = local
        if scoring != "local":
            all_logits = jnp.einsum("bkf,fv->bkv", hidden, kernel, precision=jax.lax.Precision.HIGHEST)
            log_probs = logits - jax.nn.logsumexp(all_logits, axis=-1, keepdims=True)
            if scoring == "marginal":
                log_probs = _marginal(logits, all_logits, ids, is_copy, allowed & is_copy, counts & ~is_copy)
        own = allowed[..., :num_candidates]
        return _finite(log_probs[..., :num_candidates], own), _finite(local[..., :num_candidates], own)

    return score


def _once(ids: jax.Array, allowed: jax.Array) -> jax.Array:
    """Returns the first allowed candidate of each token."""
    return allowed & ~jnp.any(jnp.tril(_same(ids, allowed), k=-1), axis=-1)


def _copies(ids: jax.Array, allowed: jax.Array, num_candidates: int) -> jax.Array:
    """Returns which candidates write the piece that a copy writes, in either reading."""
    is_copy = jnp.arange(ids.shape[-1]) % num_candidates == COPY
    return jnp.any(_same(ids, allowed & is_copy), axis=-1)


def _same(ids: jax.Array, allowed: jax.Array) -> jax.Array:
    """Returns [..., n, n]: candidate i writes the token of candidate j, which is allowed."""
    return (ids[..., :, None] == ids[..., None, :]) & allowed[..., None, :]


def _marginal(
    logits: jax.Array, all_logits: jax.Array, ids: jax.Array, is_copy: jax.Array, copies: jax.Array, tags: jax.Array
) -> jax.Array:
    """Log-probabilities of tokens that only a permitted tag goes on with, and for a copy that of all else; where there
    is no copy, tags share 1.

    What is left is summed without the tags, not taken as 1 - theirs: next to 1 that would have no digits.

    Args:
      is_copy: which candidates cost what a copy does; `copies` are those of them that are allowed, and `tags` the
        allowed others, each token once.
    """
    # Places beyond the vocabulary are none.
    places = jnp.where(tags, ids, all_logits.shape[-1])
    without = jax.vmap(jax.vmap(lambda row, at: row.at[at].set(-jnp.inf, mode="drop")))(all_logits, places)
    may_copy = jnp.any(copies, axis=-1, keepdims=True)
    rest = jnp.where(may_copy, jax.nn.logsumexp(without, axis=-1, keepdims=True), -jnp.inf)
    of_tags = jax.nn.logsumexp(jnp.where(tags, logits, -jnp.inf), axis=-1, keepdims=True)
    return jnp.where(is_copy, rest, logits) - jnp.logaddexp(rest, of_tags)


def _finite(log_probs: jax.Array, allowed: jax.Array) -> jax.Array:
    """FLOOR where the model overflowed, NaN included, and -inf where the automaton forbids."""
    return jnp.where(allowed, jnp.where(log_probs > FLOOR, log_probs, FLOOR), -jnp.inf)
