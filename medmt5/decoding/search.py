"""Greedy and beam search over the outputs the label automaton permits: `beam` with its 2 + labels candidates a step.

A score needs a candidate's logit and a normaliser. Logits come from the few output columns a sentence can ever use,
gathered once before the loop; the normaliser is the choice:

    full      log-sum-exp over the whole vocabulary: the model's own probability, as the Medical mT5 authors score
    local     log-sum-exp over the permitted candidates: forced tokens are free, the vocabulary is never read
    marginal  as full, but a copy gets all the probability that no permitted tag has: whatever else the model would
              write there, the copy is what is written. Asks only "a tag, or not?", so a model that does not (yet) copy
              well is not pushed into tags by words that it cannot spell; for one that copies well it is `full`

The model is a function; whatever it returns, NaN included, every hypothesis obeys the automaton.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp

from medmt5.decoding.beam import FLOOR, StepFn, beam_search, descending, of_parents, rank
from medmt5.decoding.label_automaton import (
    COPY,
    PAD_ID,
    LabelTables,
    advance,
    candidate_slots,
    candidates,
    sentence_ids,
    start,
)

Scoring = Literal["full", "local", "marginal"]


class LabelHypotheses(NamedTuple):
    """The hypotheses of a batch, best first.

    tokens:  [batch, beam, num_steps] int32    EOS included, then 0
    choices: [batch, beam, num_steps] int32    candidates taken (see `label_automaton`), then -1
    local_log_probs: [batch, beam, num_steps] float32  of the choices, renormalised over the permitted candidates
             whatever the scoring; 0 where there was one candidate, and after the end
    scores:  [batch, beam]            float32  -inf where there is no further permitted output
    sums:    [batch, beam]            float32  the score before it is divided by the length
    lengths: [batch, beam]            int32    tokens, EOS included; 0 where the score is -inf
    decoder_passes: int32 scalar, calls of the model
    """

    tokens: jax.Array
    choices: jax.Array
    local_log_probs: jax.Array
    scores: jax.Array
    sums: jax.Array
    lengths: jax.Array
    decoder_passes: jax.Array


def search_labels(
    step_fn: StepFn,
    cache: Any,
    output_kernel: jax.Array,
    tables: LabelTables,
    *,
    beam_size: int,
    num_steps: int,
    scoring: Scoring,
    normalize_length: bool,
) -> LabelHypotheses:
    """Returns the best tagged copies of the sentences of `tables`; `beam_size` 1 is greedy. Traceable by `jax.jit`.

    Args:
      step_fn, cache: the model and its memory; see `beam.beam_search`.
      output_kernel: [features, vocab]; every id of `tables` is below `vocab`.
      num_steps: at least `max_steps(tables)`. A hypothesis that has not ended by then counts as none: score -inf,
        length 0, which `choices_to_spans` refuses.
      scoring: see the module's docstring; float32 either way.
      normalize_length: compare, at every step, and return sums divided by the tokens so far, forced ones, tags and EOS
        included (the authors' way), instead of sums.
    """
    if scoring not in get_args(Scoring):
        raise ValueError(f"scoring must be one of {', '.join(get_args(Scoring))}, not {scoring!r}")
    kernel = output_kernel.astype(jnp.float32)
    sentence_kernel = jnp.moveaxis(jnp.take(kernel, sentence_ids(tables), axis=1), 0, -1)  # [batch, slots, features]

    def propose(hidden, state, _):
        """Scores are finite where the automaton allows a candidate, else -inf."""
        ids, allowed = candidates(tables, state)
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
        log_probs, local = (
            jnp.where(allowed, jnp.where(state.done[..., None], 0.0, jnp.where(x > FLOOR, x, FLOOR)), -jnp.inf)
            for x in (log_probs, local)  # > FLOOR: neither is NaN
        )
        return ids, log_probs, local

    beams, passes = beam_search(
        step_fn,
        cache,
        start(tables.source.shape[0], beam_size),
        propose,
        lambda state, choice, _: advance(state, choice),
        num_steps=num_steps,
        normalize_length=normalize_length,
    )
    finished = beams.state.done & ~jnp.isneginf(beams.sums)
    scores = jnp.where(finished, rank(beams.sums, beams.lengths, normalize_length), -jnp.inf)
    beams, finished, scores = of_parents((beams, finished, scores), descending(scores))
    return LabelHypotheses(
        tokens=jnp.where(finished[..., None], beams.tokens, PAD_ID),
        choices=jnp.where(finished[..., None], beams.choices, -1),
        local_log_probs=jnp.where(finished[..., None], beams.notes, 0.0),
        scores=scores,
        sums=jnp.where(finished, beams.sums, -jnp.inf),
        lengths=jnp.where(finished, beams.lengths, 0),
        decoder_passes=passes,
    )


def _give_rest_to_copy(log_probs: jax.Array, allowed: jax.Array) -> jax.Array:
    """[batch, beam, candidates] -> the same: a copy gets 1 - the other permitted ones, which share 1 without it."""
    is_copy = jnp.arange(log_probs.shape[-1]) == COPY
    others = jax.nn.logsumexp(jnp.where(allowed & ~is_copy, log_probs, -jnp.inf), axis=-1, keepdims=True)
    may_copy = allowed[..., COPY : COPY + 1]
    rest = jnp.log(-jnp.expm1(jnp.where(may_copy, jnp.minimum(others, -1e-7), -1.0)))
    return jnp.where(is_copy, rest, log_probs - jnp.where(may_copy, 0.0, others))
