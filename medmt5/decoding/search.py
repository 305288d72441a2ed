"""Greedy and beam search over the outputs the label automaton permits: one `lax.while_loop` on the device.

A step feeds the last tokens to the model, scores the 2 + labels candidates of each hypothesis, and keeps the best
`beam_size` of a sentence, finished and open ones together. A score needs a candidate's logit and a normaliser. Logits
come from the few output columns a sentence can ever use, gathered once before the loop; the normaliser is the choice:

    full      log-sum-exp over the whole vocabulary: the model's own probability, as the Medical mT5 authors score
    local     log-sum-exp over the permitted candidates: forced tokens are free, the vocabulary is never read
    marginal  as full, but a copy gets all the probability that no permitted tag has: whatever else the model would
              write there, the copy is what is written. Asks only "a tag, or not?", so a model that does not (yet) copy
              well is not pushed into tags by words that it cannot spell; for one that copies well it is `full`

The model is a function; whatever it returns, NaN included, every hypothesis obeys the automaton.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp

from medmt5.decoding.label_automaton import (
    COPY,
    PAD_ID,
    LabelTables,
    State,
    advance,
    candidate_slots,
    candidates,
    sentence_ids,
    start,
)

# Log-probability of a permitted candidate where the model overflowed: finite, so that every sentence keeps an output.
FLOOR = -1e30

Scoring = Literal["full", "local", "marginal"]
StepFn = Callable[[Any, jax.Array, jax.Array], tuple[jax.Array, Any]]


class LabelHypotheses(NamedTuple):
    """The hypotheses of a batch, best first.

    tokens:  [batch, beam, num_steps] int32    EOS included, then 0
    choices: [batch, beam, num_steps] int32    candidates taken (see `label_automaton`), then -1
    scores:  [batch, beam]            float32  -inf where there is no further permitted output
    lengths: [batch, beam]            int32    tokens, EOS included; 0 where the score is -inf
    decoder_passes: int32 scalar, calls of the model
    """

    tokens: jax.Array
    choices: jax.Array
    scores: jax.Array
    lengths: jax.Array
    decoder_passes: jax.Array


class _Beams(NamedTuple):
    """Hypotheses under way; every leaf is [batch, beam, ...]. A sum of -inf means: none; it counts as done."""

    state: State
    last: jax.Array
    tokens: jax.Array
    choices: jax.Array
    sums: jax.Array
    lengths: jax.Array


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
      step_fn: (cache, tokens [rows] int32, step int32 scalar) -> (hidden [rows, features], cache): feeds the tokens of
        position `step`, 0 at first. Rows are batch * beam_size, sentence by sentence.
      cache: pytree of arrays with the rows on axis 1, as [layers, rows, ...]; reordered as hypotheses survive.
      output_kernel: [features, vocab]; every id of `tables` is below `vocab`.
      num_steps: at least `max_steps(tables)`. A hypothesis that has not ended by then counts as none: score -inf,
        length 0, which `choices_to_spans` refuses.
      scoring: see the module's docstring; float32 either way.
      normalize_length: compare, at every step, and return sums divided by the tokens so far, forced ones, tags and EOS
        included (the authors' way), instead of sums.
    """
    if scoring not in get_args(Scoring):
        raise ValueError(f"scoring must be one of {', '.join(get_args(Scoring))}, not {scoring!r}")
    batch, rows = tables.source.shape[0], tables.source.shape[0] * beam_size
    for leaf in jax.tree.leaves(cache):
        if leaf.shape[1] != rows:
            raise ValueError(
                f"axis 1 of a cache array must be {batch} sentences * beam {beam_size} = {rows}, got {leaf.shape}"
            )
    kernel = output_kernel.astype(jnp.float32)
    sentence_kernel = jnp.moveaxis(jnp.take(kernel, sentence_ids(tables), axis=1), 0, -1)  # [batch, slots, features]

    def score(hidden, state, allowed):
        """[batch, beam, features] -> log-probabilities [batch, beam, 2 + labels], finite where allowed, else -inf."""
        hidden = hidden.astype(jnp.float32)
        columns = jax.vmap(lambda of_sentence, slots: of_sentence[slots])(
            sentence_kernel, candidate_slots(tables, state)
        )
        # HIGHEST: accelerators would else round float32 factors, and the two products differently.
        logits = jnp.einsum("bkf,bkcf->bkc", hidden, columns, precision=jax.lax.Precision.HIGHEST)
        if scoring != "local":
            normalised_over = jnp.einsum("bkf,fv->bkv", hidden, kernel, precision=jax.lax.Precision.HIGHEST)
        else:
            normalised_over = jnp.where(allowed, logits, -jnp.inf)
        log_probs = logits - jax.nn.logsumexp(normalised_over, axis=-1, keepdims=True)
        if scoring == "marginal":
            log_probs = _give_rest_to_copy(log_probs, allowed)
        log_probs = jnp.where(log_probs > FLOOR, log_probs, FLOOR)  # NaN too
        return jnp.where(allowed, jnp.where(state.done[..., None], 0.0, log_probs), -jnp.inf)

    def rank(sums, lengths):
        return sums / jnp.maximum(lengths, 1) if normalize_length else sums

    def open_hypotheses(carry):
        step, beams, _ = carry
        return (step < num_steps) & ~jnp.all(beams.state.done)

    def extend(carry):
        step, beams, cache = carry
        hidden, cache = step_fn(cache, beams.last.reshape(rows), step)
        ids, allowed = candidates(tables, beams.state)
        sums = beams.sums[..., None] + score(hidden.reshape(batch, beam_size, -1), beams.state, allowed)
        beams = beams._replace(lengths=beams.lengths + ~beams.state.done)
        ranks = rank(sums, beams.lengths[..., None])
        best = _descending(ranks.reshape(batch, -1))[:, :beam_size]
        parent, choice = jnp.divmod(best, ids.shape[-1])
        last, sums = (jnp.take_along_axis(x.reshape(batch, -1), best, axis=1) for x in (ids, sums))
        beams = _of_parents(beams, parent)
        if beam_size > 1:
            cache = jax.tree.map(lambda leaf: _rows_of_parents(leaf, parent), cache)
        state = advance(beams.state, choice)
        beams = _Beams(
            state=dataclasses.replace(state, done=state.done | jnp.isneginf(sums)),
            last=last,
            tokens=beams.tokens.at[:, :, step].set(last),
            choices=beams.choices.at[:, :, step].set(jnp.where(beams.state.done, -1, choice)),
            sums=sums,
            lengths=beams.lengths,
        )
        return step + 1, beams, cache

    passes, beams, _ = jax.lax.while_loop(
        open_hypotheses, extend, (jnp.int32(0), _first(batch, beam_size, num_steps), cache)
    )
    finished = beams.state.done & ~jnp.isneginf(beams.sums)
    scores = jnp.where(finished, rank(beams.sums, beams.lengths), -jnp.inf)
    beams, finished, scores = _of_parents((beams, finished, scores), _descending(scores))
    return LabelHypotheses(
        tokens=jnp.where(finished[..., None], beams.tokens, PAD_ID),
        choices=jnp.where(finished[..., None], beams.choices, -1),
        scores=scores,
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


def _first(batch: int, beam_size: int, num_steps: int) -> _Beams:
    """One live hypothesis a sentence; its last token is padding, T5's decoder start."""
    live = jnp.broadcast_to(jnp.arange(beam_size) == 0, (batch, beam_size))
    return _Beams(
        state=dataclasses.replace(start(batch, beam_size), done=~live),
        last=jnp.full((batch, beam_size), PAD_ID, jnp.int32),
        tokens=jnp.full((batch, beam_size, num_steps), PAD_ID, jnp.int32),
        choices=jnp.full((batch, beam_size, num_steps), -1, jnp.int32),
        sums=jnp.where(live, 0.0, -jnp.inf),
        lengths=jnp.zeros((batch, beam_size), jnp.int32),
    )


def _descending(ranks: jax.Array) -> jax.Array:
    """Returns the order, best first, of [batch, n]. A sort: `top_k` would gather the batch from all devices."""
    return jnp.argsort(ranks, axis=1, descending=True)


def _of_parents(tree: Any, parent: jax.Array) -> Any:
    """Reorders the beam axis of leaves [batch, beam, ...] by `parent` [batch, beam], each sentence within itself."""
    return jax.tree.map(jax.vmap(lambda leaf, indices: leaf[indices]), tree, jax.tree.map(lambda _: parent, tree))


def _rows_of_parents(leaf: jax.Array, parent: jax.Array) -> jax.Array:
    """Reorders [layers, rows, ...]: batched by sentence, so that a cache sharded over sentences stays where it is."""
    by_sentence = leaf.reshape(leaf.shape[0], *parent.shape, *leaf.shape[2:])
    gather = jax.vmap(lambda of_sentence, indices: jnp.take(of_sentence, indices, axis=1), in_axes=(1, 0), out_axes=1)
    return gather(by_sentence, parent).reshape(leaf.shape)
