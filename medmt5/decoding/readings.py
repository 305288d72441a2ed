"""What has been written may be read in two ways: where the pieces of a tag begin as a word does. What then comes next.

`▁<` in mT5's vocabulary is the word `<` and the beginning of `<Disease>`. The search keeps both: two hypotheses that
their choices tell apart, with the same score by `full` for as long as they write the same. The scores that compare with
what is permitted would be wrong if each saw its own candidates alone: a begun tag has one way to go on, which would
then be certain, however sure the model is that it has written a word. So they compare with what may come next in either
reading, each token once.

Compared are a word and a tag from the word's beginning on, until the tag is whole or the word's successor is written.
Words that a tag's pieces span, and words that are a whole tag, are not: no vocabulary that marks the beginning of a
word writes the first, and of the second `full` alone tells rightly how sure the model is. With tags of one token there
is one reading.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from medmt5.decoding.label_automaton import LabelTables, State, candidate_slots, candidates


def next_tokens(tables: LabelTables, state: State) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns (slots in `sentence_ids`, ids, allowed) of what may come next, all [batch, beam, n].

    The first 2 + labels are the candidates of the state; those that follow, if any, are those of the other reading.
    """
    ids, allowed = candidates(tables, state)
    slots = candidate_slots(tables, state)
    if tables.tags is None:
        return slots, ids, allowed
    other, exists = _other_reading(tables, state)
    other_ids, other_allowed = candidates(tables, other)
    return (
        jnp.concatenate([slots, candidate_slots(tables, other)], axis=-1),
        jnp.concatenate([ids, other_ids], axis=-1),
        jnp.concatenate([allowed, other_allowed & exists[..., None]], axis=-1),
    )


def is_decision(tables: LabelTables, state: State) -> jax.Array:
    """Returns where what comes next must be scored by `local`, [batch, beam] bool.

    There are several tokens to choose from, or a tag is begun: its pieces go through the model one at a time, so that
    no more than one waits. Behind the last word all is forced.
    """
    _, _, allowed = next_tokens(tables, state)
    several = jnp.sum(allowed, axis=-1) > 1
    if state.written is None:
        return several
    return several | ((state.written != 0) & (state.position < jnp.asarray(tables.num_pieces)[:, None]))


def _other_reading(tables: LabelTables, state: State) -> tuple[State, jax.Array]:
    """Returns (state, there is one [batch, beam] bool): of a begun tag the word, of a word the tag."""
    tags, written = tables.tags, state.written
    assert tags is not None
    assert written is not None
    begun, within = written != 0, state.position < jnp.asarray(tables.num_pieces)[:, None]
    # Where the word begins: here, or where the piece copied last has it.
    start = jnp.take_along_axis(jnp.asarray(tags.word_start), (state.position - 1).clip(0), axis=1)
    start = jnp.where(begun, state.position, start)
    pieces = jnp.where(begun, jnp.abs(written), state.position - start)  # of the word, and of the tag
    outside = jnp.where(begun, written > 0, state.label < 0)  # at the word's beginning

    at = start.clip(0, tables.source.shape[1] - 1)[..., None]
    like_open, like_close = (
        jnp.take_along_axis(jnp.asarray(like), at, axis=1) >= pieces[..., None]
        for like in (tags.like_open, tags.like_close)
    )
    like_open &= jnp.asarray(tables.permitted)[:, None] & (jnp.asarray(tags.open_lengths) > pieces[..., None])
    like_close &= jnp.asarray(tags.close_lengths) > pieces[..., None]
    first = jnp.argmax(like_open, axis=-1).astype(jnp.int32)
    of_label = jnp.take_along_axis(
        jnp.where(outside[..., None], like_open, like_close), state.label.clip(0)[..., None], 2
    )
    alike = jnp.where(outside & ~begun, jnp.any(like_open, axis=-1), of_label[..., 0])
    # A tag closes behind a word, and one that is whole here is not begun here.
    word = (state.position > state.since) & (outside | (start > state.since))
    exists = ~state.done & alike & jnp.where(begun, within, word)
    other = dataclasses.replace(
        state,
        position=jnp.where(begun, state.position + pieces, start),
        label=jnp.where(outside, jnp.where(begun, -1, first), state.label),
        written=jnp.where(begun, 0, jnp.where(outside, pieces, -pieces)),
        done=jnp.zeros_like(state.done),
    )
    return other, exists
