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
from medmt5.decoding.token_tree import ExtendFn

# Log-probability of a candidate where the model overflowed: finite, so that every sentence keeps an output.
FLOOR = -1e30


class Beams(NamedTuple):
    """Hypotheses under way; every leaf is [batch, beam, ...]. A sum of -inf means: none; it counts as done.

    state:   dataclass with `done` [batch, beam] bool, and what else `propose` and `advance` need
    last:    [batch, beam]            int32    the token written last
    tokens:  [batch, beam, num_steps] int32    then 0
    sums:    [batch, beam]            float32  of the candidates' log-probabilities
    lengths: [batch, beam]            int32    tokens written, EOS included
    """

    state: Any
    last: jax.Array
    tokens: jax.Array
    sums: jax.Array
    lengths: jax.Array


def beam_search(
    extend: ExtendFn,
    memory: Any,
    state: Any,
    propose: Callable[[jax.Array, Any, jax.Array], tuple[jax.Array, jax.Array]],
    advance: Callable[[Any, jax.Array, jax.Array], Any],
    *,
    num_steps: int,
    normalize_length: bool,
) -> tuple[Beams, jax.Array]:
    """Returns (beams, calls of the model as int32 scalar) when all hypotheses are done or after `num_steps`.

    Args:
      extend, memory: the model and its empty memory; see `token_tree`.
      state: of the empty hypotheses, [batch, beam] each; its shape tells the batch and the beam.
      propose: (hidden [batch, beam, features] float32, state, step) -> (ids int32, log-probabilities float32), both
        [batch, beam, candidates]; -inf where there is no candidate. One that is done has one: padding, at 0.
      advance: (state, choice, token), both [batch, beam] int32 -> state.
      normalize_length: compare sums divided by the tokens so far, not sums.
    """
    batch, beam_size = state.done.shape
    memory = memory.grow(beam_size * num_steps)
    slots = jnp.arange(beam_size * num_steps)

    def open_hypotheses(carry):
        step, beams, *_ = carry
        return (step < num_steps) & ~jnp.all(beams.state.done)

    def extend_beams(carry):
        step, beams, memory, visible = carry
        own = slots == step * beam_size + jnp.arange(beam_size)[:, None]
        visible = visible | own
        positions = jnp.full((batch, beam_size), step)
        hidden, memory = extend(memory, step * beam_size, beams.last, positions, visible)
        ids, log_probs = propose(hidden.astype(jnp.float32), beams.state, step)
        sums = beams.sums[..., None] + log_probs
        beams = beams._replace(lengths=beams.lengths + ~beams.state.done)
        ranks = rank(sums, beams.lengths[..., None], normalize_length)
        best = descending(ranks.reshape(batch, -1))[:, :beam_size]
        parent, choice = jnp.divmod(best, ids.shape[-1])
        last, sums = (jnp.take_along_axis(x.reshape(batch, -1), best, axis=1) for x in (ids, sums))
        beams, visible = of_parents((beams, visible), parent)
        state = advance(beams.state, choice, last)
        beams = Beams(
            state=dataclasses.replace(state, done=state.done | jnp.isneginf(sums)),
            last=last,
            tokens=beams.tokens.at[:, :, step].set(last),
            sums=sums,
            lengths=beams.lengths,
        )
        return step + 1, beams, memory, visible

    first = _first(state, batch, beam_size, num_steps)
    visible = jnp.zeros((batch, beam_size, slots.size), bool)
    passes, beams, *_ = jax.lax.while_loop(open_hypotheses, extend_beams, (jnp.int32(0), first, memory, visible))
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
        sums=jnp.where(live, 0.0, -jnp.inf),
        lengths=jnp.zeros((batch, beam_size), jnp.int32),
    )
