"""What the label search holds: a tree of nodes and the hypotheses that walk it, and the record of what they chose.

Works on batches of sentences, traceable by jax. How the search goes on is the business of `search`.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from medmt5.decoding.beam import descending, rank
from medmt5.decoding.label_automaton import PAD_ID, LabelTables, State, start

NOWHERE = -1  # a node that is not there


class LabelHypotheses(NamedTuple):
    """The hypotheses of a batch, best first.

    tokens:  [batch, beam, num_steps] int32    EOS included, then 0
    choices: [batch, beam, num_steps] int32    candidates taken (see `label_automaton`), then -1
    local_log_probs: [batch, beam, num_steps] float32  of the choices, renormalised over the permitted candidates
             whatever the scoring; 0 where there was one candidate, and after the end
    scores:  [batch, beam]            float32  -inf where there is no further permitted output
    sums:    [batch, beam]            float32  the score before it is divided by the length
    lengths: [batch, beam]            int32    tokens, EOS included; 0 where the score is -inf
    decoder_passes: [batch] int32     calls of the model until the sentence was done
    """

    tokens: jax.Array
    choices: jax.Array
    local_log_probs: jax.Array
    scores: jax.Array
    sums: jax.Array
    lengths: jax.Array
    decoder_passes: jax.Array


class Tree(NamedTuple):
    """The nodes of each sentence.

    memory:  the model's, a `token_tree.Memory` or what has its methods
    used:    int32 scalar             slots taken, in all sentences
    score:   [batch, slots, 2 + labels] float32  of the node's candidates, -inf where not permitted
    local:   [batch, slots, 2 + labels] float32  the same by `local`
    copy:    [batch, slots] int32     the node of the next piece copied, or NOWHERE
    """

    memory: Any
    used: jax.Array
    score: jax.Array
    local: jax.Array
    copy: jax.Array


class Beams(NamedTuple):
    """Hypotheses under way, best first; [batch, beam] unless it says otherwise. A sum of -inf means: none.

    state:   the automaton's, after all that is written
    node:    int32    the last token fed, or NOWHERE
    fed:     int32    tokens fed, the decoder's start included
    copied:  int32    pieces copied at the node
    tag:     int32    written after the node, before any piece: a tag, a piece of it, the decoder's start; or NOWHERE
    visible: [batch, beam, slots] bool  the node and its ancestors
    sums:    float32
    lengths: int32    tokens written, EOS included
    """

    state: State
    node: jax.Array
    fed: jax.Array
    copied: jax.Array
    tag: jax.Array
    visible: jax.Array
    sums: jax.Array
    lengths: jax.Array

    @property
    def waiting(self) -> jax.Array:
        """Tokens written and not fed; the decoder's start is before them."""
        return self.lengths + 1 - self.fed


class Record(NamedTuple):
    """What each step did, [batch, num_steps, beam]: the hypothesis it went on from, token, choice, `local` score."""

    parent: jax.Array
    token: jax.Array
    choice: jax.Array
    local: jax.Array


def first_beams(tables: LabelTables, beam_size: int) -> Beams:
    """One live hypothesis a sentence, which waits for the decoder's start: padding."""
    state = start(tables, beam_size)
    live = jnp.broadcast_to(jnp.arange(beam_size) == 0, state.done.shape)
    nothing = jnp.zeros(live.shape, jnp.int32)
    return Beams(
        state=dataclasses.replace(state, done=~live),
        node=nothing + NOWHERE,
        fed=nothing,
        copied=nothing,
        tag=nothing + PAD_ID,
        visible=jnp.zeros((*live.shape, 0), bool),
        sums=jnp.where(live, 0.0, -jnp.inf),
        lengths=nothing,
    )


def grow(tree: Tree, beams: Beams, slots: int) -> tuple[Tree, Beams]:
    def pad(x: jax.Array, axis: int, value: Any = 0) -> jax.Array:
        widths = [(0, slots - n if i == axis else 0) for i, n in enumerate(x.shape)]
        return jnp.pad(x, widths, constant_values=value)

    return (
        Tree(tree.memory.grow(slots), tree.used, pad(tree.score, 1), pad(tree.local, 1), pad(tree.copy, 1, NOWHERE)),
        beams._replace(visible=pad(beams.visible, 2)),
    )


def compact(tree: Tree, beams: Beams, undone: jax.Array) -> tuple[Tree, Beams]:
    """Keeps the nodes of hypotheses that are under way, in order; what was fed ahead of them is given up."""
    live = jnp.any(beams.visible & undone[..., None], axis=1)
    order = jnp.argsort(~live, axis=1)
    place = jnp.argsort(order, axis=1)
    visible = beams.visible & undone[..., None]
    return (
        Tree(
            memory=tree.memory.keep(order),
            used=jnp.max(jnp.sum(live, axis=1)),
            score=jnp.take_along_axis(tree.score, order[..., None], axis=1),
            local=jnp.take_along_axis(tree.local, order[..., None], axis=1),
            copy=jnp.full_like(tree.copy, NOWHERE),
        ),
        beams._replace(
            node=jnp.where(beams.node == NOWHERE, NOWHERE, jnp.take_along_axis(place, beams.node.clip(0), axis=1)),
            visible=jnp.take_along_axis(visible, order[:, None], axis=2),
        ),
    )


def read_back(beams: Beams, record: Record, passes: jax.Array, normalize_length: bool) -> LabelHypotheses:
    """Follows the record from the end of each hypothesis back to its first token."""
    finished = beams.state.done & ~jnp.isneginf(beams.sums)
    scores = jnp.where(finished, rank(beams.sums, beams.lengths, normalize_length), -jnp.inf)
    order = descending(scores)

    def back(at: jax.Array, step: Record):
        of_step = jax.tree.map(lambda x: jnp.take_along_axis(x, at, axis=1), step)
        return of_step.parent, of_step

    by_step = jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), record)
    _, path = jax.lax.scan(back, order, by_step, reverse=True)
    path = jax.tree.map(lambda x: jnp.moveaxis(x, 0, -1), path)
    finished, scores, sums, lengths = (
        jnp.take_along_axis(x, order, axis=1) for x in (finished, scores, beams.sums, beams.lengths)
    )
    found = finished[..., None]
    return LabelHypotheses(
        tokens=jnp.where(found, path.token, PAD_ID),
        choices=jnp.where(found, path.choice, -1),
        local_log_probs=jnp.where(found, path.local, 0.0),
        scores=scores,
        sums=jnp.where(finished, sums, -jnp.inf),
        lengths=jnp.where(finished, lengths, 0),
        decoder_passes=passes,
    )
