"""Beam search in one `lax.while_loop` on the device, whatever may come next: `search` and `generation` say that.

A step feeds the last tokens to the model, takes the candidates that `propose` names for each hypothesis, and keeps the
best `beam_size` of a sentence, finished and open ones together. Sentences never meet: a batch sharded over them stays
where it is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from medmt5.decoding.label_automaton import PAD_ID

# Log-probability of a candidate where the model overflowed: finite, so that every sentence keeps an output.
FLOOR = -1e30

StepFn = Callable[[Any, jax.Array, jax.Array], tuple[jax.Array, Any]]


class Beams(NamedTuple):
    """Hypotheses under way; every leaf is [batch, beam, ...]. A sum of -inf means: none; it counts as done.

    state:   dataclass with `done` [batch, beam] bool, and what else `propose` and `advance` need
    last:    [batch, beam]            int32    the token written last
    tokens:  [batch, beam, num_steps] int32    then 0
    choices: [batch, beam, num_steps] int32    which candidates were taken, then -1
    notes:   [batch, beam, num_steps] float32  what `propose` noted of the candidates taken, then 0
    sums:    [batch, beam]            float32  of the candidates' log-probabilities
    lengths: [batch, beam]            int32    tokens written, EOS included
    """

    state: Any
    last: jax.Array
    tokens: jax.Array
    choices: jax.Array
    notes: jax.Array
    sums: jax.Array
    lengths: jax.Array


def beam_search(
    step_fn: StepFn,
    cache: Any,
    state: Any,
    propose: Callable[[jax.Array, Any, jax.Array], tuple[jax.Array, jax.Array, jax.Array]],
    advance: Callable[[Any, jax.Array, jax.Array], Any],
    *,
    num_steps: int,
    normalize_length: bool,
) -> tuple[Beams, jax.Array]:
    """Returns (beams, calls of the model as int32 scalar) when all hypotheses are done or after `num_steps`.

    Args:
      step_fn: (cache, tokens [rows] int32, step int32 scalar) -> (hidden [rows, features], cache): feeds the tokens of
        position `step`, 0 at first. Rows are batch * beam, sentence by sentence.
      cache: pytree of arrays with the rows on axis 1, as [layers, rows, ...]; reordered as hypotheses survive.
      state: of the empty hypotheses, [batch, beam] each; its shape tells the batch and the beam.
      propose: (hidden [batch, beam, features] float32, state, step) -> (ids int32, log-probabilities float32, notes
        float32), all [batch, beam, candidates]; log-probability -inf where there is no candidate. One that is done has
        one: padding, at 0. Notes are kept of the candidates taken, for the caller.
      advance: (state, choice, token), both [batch, beam] int32 -> state.
      normalize_length: compare sums divided by the tokens so far, not sums.
    """
    batch, beam_size = state.done.shape
    for leaf in jax.tree.leaves(cache):
        if leaf.shape[1] != batch * beam_size:
            raise ValueError(
                f"axis 1 of a cache array must be {batch} sentences * beam {beam_size} = {batch * beam_size}, "
                f"got {leaf.shape}"
            )

    def open_hypotheses(carry):
        step, beams, _ = carry
        return (step < num_steps) & ~jnp.all(beams.state.done)

    def extend(carry):
        step, beams, cache = carry
        hidden, cache = step_fn(cache, beams.last.reshape(-1), step)
        hidden = hidden.astype(jnp.float32).reshape(batch, beam_size, -1)
        ids, log_probs, notes = propose(hidden, beams.state, step)
        sums = beams.sums[..., None] + log_probs
        beams = beams._replace(lengths=beams.lengths + ~beams.state.done)
        ranks = rank(sums, beams.lengths[..., None], normalize_length)
        best = descending(ranks.reshape(batch, -1))[:, :beam_size]
        parent, choice = jnp.divmod(best, ids.shape[-1])
        last, sums, notes = (jnp.take_along_axis(x.reshape(batch, -1), best, axis=1) for x in (ids, sums, notes))
        was_done = jnp.take_along_axis(beams.state.done, parent, axis=1)
        beams = of_parents(beams, parent)
        if beam_size > 1:
            cache = jax.tree.map(lambda leaf: _rows_of_parents(leaf, parent), cache)
        state = advance(beams.state, choice, last)
        beams = Beams(
            state=dataclasses.replace(state, done=state.done | jnp.isneginf(sums)),
            last=last,
            tokens=beams.tokens.at[:, :, step].set(last),
            choices=beams.choices.at[:, :, step].set(jnp.where(beams.state.done, -1, choice)),
            notes=beams.notes.at[:, :, step].set(jnp.where(was_done, 0.0, notes)),
            sums=sums,
            lengths=beams.lengths,
        )
        return step + 1, beams, cache

    passes, beams, _ = jax.lax.while_loop(
        open_hypotheses, extend, (jnp.int32(0), _first(state, batch, beam_size, num_steps), cache)
    )
    return beams, passes


def rank(sums: jax.Array, lengths: jax.Array, normalize_length: bool) -> jax.Array:
    """Returns what hypotheses are compared by: the sum of log-probabilities, or that divided by the tokens."""
    return sums / jnp.maximum(lengths, 1) if normalize_length else sums


def descending(ranks: jax.Array) -> jax.Array:
    """Returns the order, best first, of [batch, n]. A sort: `top_k` would gather the batch from all devices."""
    return jnp.argsort(ranks, axis=1, descending=True)


def of_parents(tree: Any, parent: jax.Array) -> Any:
    """Reorders the beam axis of leaves [batch, beam, ...] by `parent` [batch, beam], each sentence within itself."""
    return jax.tree.map(jax.vmap(lambda leaf, indices: leaf[indices]), tree, jax.tree.map(lambda _: parent, tree))


def _first(state: Any, batch: int, beam_size: int, num_steps: int) -> Beams:
    """One live hypothesis a sentence; its last token is padding, T5's decoder start."""
    live = jnp.broadcast_to(jnp.arange(beam_size) == 0, (batch, beam_size))
    return Beams(
        state=dataclasses.replace(state, done=~live),
        last=jnp.full((batch, beam_size), PAD_ID, jnp.int32),
        tokens=jnp.full((batch, beam_size, num_steps), PAD_ID, jnp.int32),
        choices=jnp.full((batch, beam_size, num_steps), -1, jnp.int32),
        notes=jnp.zeros((batch, beam_size, num_steps), jnp.float32),
        sums=jnp.where(live, 0.0, -jnp.inf),
        lengths=jnp.zeros((batch, beam_size), jnp.int32),
    )


def _rows_of_parents(leaf: jax.Array, parent: jax.Array) -> jax.Array:
    """Reorders [layers, rows, ...]: batched by sentence, so that a cache sharded over sentences stays where it is."""
    by_sentence = leaf.reshape(leaf.shape[0], *parent.shape, *leaf.shape[2:])
    gather = jax.vmap(lambda of_sentence, indices: jnp.take(of_sentence, indices, axis=1), in_axes=(1, 0), out_axes=1)
    return gather(by_sentence, parent).reshape(leaf.shape)
