"""Greedy and beam search over the outputs the label automaton permits, token by token, without a model pass a token.

A hypothesis is a node of the `token_tree` (the last token that went through the decoder) and what was written since: at
most one tag (or a piece of one that has several), then pieces of the sentence, for a tag is only chosen where the node
was reached. A pass feeds the tokens that the search waits for, and after them the pieces that follow if nothing is
tagged: as long as a hypothesis copies, its next scores are there. The search then steps on in each sentence until one
of its hypotheses needs a score that is not there; sentences do not wait for each other.

What a candidate costs is `label_scores`' business.

The model is a function; whatever it returns, NaN included, every hypothesis obeys the automaton. The result is that of
a search with a pass a token: finished and open hypotheses compete at every step.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any, get_args

import jax
import jax.numpy as jnp

from medmt5.decoding.beam import descending, of_parents, rank
from medmt5.decoding.label_automaton import COPY, OPEN, PAD_ID, LabelTables, advance, candidates
from medmt5.decoding.label_beams import (
    NOWHERE,
    Beams,
    LabelHypotheses,
    Record,
    Tree,
    compact,
    first_beams,
    grow,
    read_back,
)
from medmt5.decoding.label_scores import Scoring, make_score
from medmt5.decoding.readings import is_decision
from medmt5.decoding.token_tree import ExtendFn

FIRST_SLOTS = 96  # of a memory: where it holds few nodes, attention goes over few


def search_labels(
    extend: ExtendFn,
    memory: Any,
    output_kernel: jax.Array,
    tables: LabelTables,
    *,
    beam_size: int,
    num_steps: int,
    scoring: Scoring,
    normalize_length: bool,
    tokens_per_pass: int,
) -> LabelHypotheses:
    """Returns the best tagged copies of the sentences of `tables`; `beam_size` 1 is greedy. Traceable by `jax.jit`.

    Args:
      extend: the model; see `token_tree.Decoder.extend`.
      memory: its memory, of any number of slots and empty.
      output_kernel: [features, vocab]; every id of `tables` is below `vocab`.
      num_steps: at least `max_steps(tables)`. A hypothesis that has not ended by then counts as none: score -inf,
        length 0, which `choices_to_spans` refuses.
      scoring: see the module's docstring; float32 either way.
      normalize_length: compare, at every step, and return sums divided by the tokens so far, forced ones, tags and EOS
        included (the authors' way), instead of sums.
      tokens_per_pass: of a sentence. Changes speed alone.
    """
    if scoring not in get_args(Scoring):
        raise ValueError(f"scoring must be one of {', '.join(get_args(Scoring))}, not {scoring!r}")
    width = tokens_per_pass
    if width < 1:
        raise ValueError(f"tokens_per_pass must be at least 1, not {width}")
    batch, num_columns = tables.source.shape
    word_ends = _word_ends(tables)
    score = make_score(output_kernel, tables, scoring)

    def undone(beams: Beams) -> jax.Array:
        return ~beams.state.done & (beams.lengths < num_steps)

    def blocked(beams: Beams) -> jax.Array:
        """Which hypotheses cannot go on: [batch, beam] bool."""
        needs = undone(beams) & (beams.waiting > 0)
        return needs & is_decision(tables, beams.state) if scoring == "local" else needs

    def feed(tree: Tree, beams: Beams) -> tuple[Tree, Beams]:
        """One pass: of each hypothesis a chain, the tag and pieces that it waits for and pieces that may follow."""
        tagged = beams.tag != NOWHERE
        open_ = undone(beams)
        is_blocked = blocked(beams)
        # To the end of the word that is begun or, behind an opening tag, about to be.
        state = beams.state
        target = jnp.where(
            (state.label >= 0) & ~state.has_word,
            jnp.take_along_axis(word_ends, state.position, axis=1),
            jnp.take_along_axis(word_ends, (state.position - 1).clip(0), axis=1) * (state.position > 0),
        )
        needed = jnp.where(is_blocked, tagged + target - beams.copied, 0)
        longest = tagged + jnp.asarray(tables.num_pieces)[:, None] - beams.copied
        if state.written is not None:  # behind a piece of a begun tag comes no word
            longest = jnp.where(state.written != 0, tagged, longest)
        ahead = jnp.take_along_axis(tree.copy, beams.node.clip(0), axis=1)
        hungry = open_ & (is_blocked | (beams.waiting > 0) | (ahead == NOWHERE))
        share = width // jnp.maximum(jnp.sum(hungry, axis=1, keepdims=True), 1)
        wished = jnp.where(hungry, jnp.minimum(jnp.maximum(needed, share), longest), 0)
        needed = jnp.minimum(needed, longest)
        given = (width - _before(needed)).clip(0, needed)
        more = jnp.where(given == needed, wished - needed, 0)
        rest = width - jnp.sum(given, axis=1, keepdims=True)
        given = given + (rest - _before(more)).clip(0, more)

        begin = _before(given)
        place = jnp.arange(width)
        owner = jnp.sum(place[None, :, None] >= (begin + given)[:, None, :], axis=-1)  # [batch, width]
        real = owner < beam_size
        owner = jnp.minimum(owner, beam_size - 1)
        of_owner = lambda x: jnp.take_along_axis(x, owner, axis=1)  # noqa: E731
        index = place - of_owner(begin)
        is_tag = of_owner(tagged) & (index == 0)
        copied = of_owner(beams.copied) + index + 1 - of_owner(tagged)
        piece = jnp.take_along_axis(jnp.asarray(tables.source), (copied - 1).clip(0, num_columns - 1), axis=1)
        tokens = jnp.where(real, jnp.where(is_tag, of_owner(beams.tag), piece), PAD_ID)
        nodes = dataclasses.replace(jax.tree.map(of_owner, state), position=copied, done=jnp.zeros_like(real))
        slot = tree.used + place
        same = (owner[:, :, None] == owner[:, None, :]) & (place[:, None] >= place[None, :])
        visible = jnp.take_along_axis(beams.visible, owner[:, :, None], axis=1)
        visible = jax.lax.dynamic_update_slice_in_dim(visible, same, tree.used, axis=2)
        hidden, memory = extend(tree.memory, tree.used, tokens, of_owner(beams.fed) + index, visible)
        scores, local = score(hidden.astype(jnp.float32), nodes)
        goes_on = real[:, :-1] & real[:, 1:] & (owner[:, :-1] == owner[:, 1:])
        copy = jnp.where(jnp.pad(goes_on, ((0, 0), (0, 1))), slot + 1, NOWHERE)
        copy = jax.lax.dynamic_update_slice_in_dim(tree.copy, copy, tree.used, axis=1)
        # A chain that begins with a piece is what a copy leads to from the node before it.
        follows = (given > 0) & ~tagged & (beams.node != NOWHERE)
        copy = _put(copy, jnp.where(follows, beams.node, copy.shape[1]), tree.used + begin)
        tree = Tree(
            memory=memory,
            used=tree.used + width,
            score=jax.lax.dynamic_update_slice_in_dim(tree.score, scores, tree.used, axis=1),
            local=jax.lax.dynamic_update_slice_in_dim(tree.local, local, tree.used, axis=1),
            copy=copy,
        )
        fed = jnp.minimum(given, beams.waiting)
        first = tree.used - width + begin
        at = jnp.arange(beams.visible.shape[2])
        seen = (at >= first[..., None]) & (at < (first + fed)[..., None])
        return tree, beams._replace(
            node=jnp.where(fed > 0, first + fed - 1, beams.node),
            fed=beams.fed + fed,
            copied=beams.copied + jnp.where(fed > 0, fed - tagged, 0),
            tag=jnp.where(fed > 0, NOWHERE, beams.tag),
            visible=beams.visible | seen,
        )

    def step(tree: Tree, beams: Beams, record: Record, moves: jax.Array) -> tuple[Beams, Record]:
        """Writes one token in the sentences where `moves` [batch]."""
        state = beams.state
        ids, allowed = candidates(tables, state)
        there = (beams.waiting == 0)[..., None] & ~state.done[..., None]
        node = beams.node.clip(0)[..., None]
        log_probs, local = (
            jnp.where(allowed, jnp.where(there, jnp.take_along_axis(x, node, axis=1), 0.0), -jnp.inf)
            for x in (tree.score, tree.local)
        )
        sums = beams.sums[..., None] + log_probs
        lengths = beams.lengths + ~state.done
        best = descending(rank(sums, lengths[..., None], normalize_length).reshape(batch, -1))[:, :beam_size]
        parent, choice = jnp.divmod(best, ids.shape[-1])
        token, new_sums, local = (jnp.take_along_axis(x.reshape(batch, -1), best, axis=1) for x in (ids, sums, local))
        before = of_parents(beams._replace(lengths=lengths), parent)
        was_done = before.state.done
        after = advance(tables, before.state, choice)
        after = dataclasses.replace(after, done=after.done | jnp.isneginf(new_sums))
        # Along the chain of copies, if it is there.
        ahead = jnp.take_along_axis(tree.copy, before.node.clip(0), axis=1)
        arrives = (
            (choice == COPY) & ~was_done & (before.node != NOWHERE) & (before.tag == NOWHERE)
            & (before.fed == before.lengths) & (ahead != NOWHERE)
        )  # fmt: skip
        is_tag = ~was_done & ~after.done & (choice != COPY)
        moved = Beams(
            state=after,
            node=jnp.where(arrives, ahead, before.node),
            fed=before.fed + arrives,
            copied=before.copied + arrives,
            tag=jnp.where(is_tag, token, before.tag),
            visible=before.visible | (arrives[..., None] & (jnp.arange(before.visible.shape[2]) == ahead[..., None])),
            sums=new_sums,
            lengths=before.lengths,
        )
        done_now = Record(
            parent, token, jnp.where(was_done | jnp.isneginf(new_sums), -1, choice), jnp.where(was_done, 0.0, local)
        )
        at = jnp.where(moves, jnp.max(jnp.where(state.done, 0, beams.lengths), axis=1), num_steps)
        record = jax.tree.map(lambda whole, new: _put(whole, at, new), record, done_now)
        beams = jax.tree.map(
            lambda new, old: jnp.where(moves.reshape(-1, *(1,) * (new.ndim - 1)), new, old), moved, beams
        )
        return beams, record

    def may_move(beams: Beams) -> jax.Array:
        return jnp.any(undone(beams), axis=1) & ~jnp.any(blocked(beams), axis=1)

    def pass_and_steps(carry):
        tree, beams, record, passes = carry
        took_part = jnp.any(undone(beams), axis=1)
        tree, beams = feed(tree, beams)

        def steps(inner):
            beams, record, moves = inner
            beams, record = step(tree, beams, record, moves)
            return beams, record, may_move(beams)

        beams, record, _ = jax.lax.while_loop(lambda inner: jnp.any(inner[2]), steps, (beams, record, may_move(beams)))
        return tree, beams, record, passes + took_part

    def unfinished(beams: Beams) -> jax.Array:
        return jnp.any(undone(beams))

    most = beam_size * (num_steps + 1) + width
    beams = first_beams(tables, beam_size)
    record = Record(
        parent=jnp.broadcast_to(jnp.arange(beam_size), (batch, num_steps, beam_size)),
        token=jnp.full((batch, num_steps, beam_size), PAD_ID, jnp.int32),
        choice=jnp.full((batch, num_steps, beam_size), -1, jnp.int32),
        local=jnp.zeros((batch, num_steps, beam_size), jnp.float32),
    )
    num_candidates = OPEN + tables.open_ids.shape[0]
    tree = Tree(memory, jnp.int32(0), *(jnp.zeros((batch, 0, num_candidates)),) * 2, jnp.zeros((batch, 0), jnp.int32))

    def search_in(sizes: list[int], tree: Tree, beams: Beams, *rest):
        """Goes on in a memory of the first size, and where live nodes no longer fit into that, of the next."""
        slots, last = sizes[0], len(sizes) == 1
        tree, beams = grow(tree, beams, slots)

        def fits(carry):
            _, beams, *_ = carry
            live = jnp.max(jnp.sum(jnp.any(beams.visible & undone(beams)[..., None], axis=1), axis=-1))
            return unfinished(beams) & (last | (live + width <= slots * 3 // 4))

        def fill(carry):
            tree, beams, *rest = carry
            tree, beams = compact(tree, beams, undone(beams))
            return jax.lax.while_loop(
                lambda carry: unfinished(carry[1]) & (carry[0].used + width <= slots),
                pass_and_steps,
                (tree, beams, *rest),
            )

        tree, beams, record, passes = jax.lax.while_loop(fits, fill, (tree, beams, *rest))

        def found(_, beams, *rest):
            return beams._replace(visible=None), *rest

        if last:
            return found(tree, beams, record, passes)
        return jax.lax.cond(unfinished(beams), partial(search_in, sizes[1:]), found, tree, beams, record, passes)

    beams, record, passes = search_in(
        _sizes(max(FIRST_SLOTS, 2 * width), most), tree, beams, record, jnp.zeros(batch, jnp.int32)
    )
    return read_back(beams, record, passes, normalize_length)


def _word_ends(tables: LabelTables) -> jax.Array:
    """Returns, of each piece, the pieces up to the end of its word, [batch, pieces] int32."""
    columns = jnp.arange(1, tables.source.shape[1] + 1, dtype=jnp.int32)
    ends = jnp.where(jnp.asarray(tables.word_end), columns, columns[-1])
    return jax.lax.cummin(ends, axis=1, reverse=True)


def _put(rows: jax.Array, at: jax.Array, new: jax.Array) -> jax.Array:
    """Returns rows [batch, n, ...] with new[b] at the places at[b], none beyond n: no sentence meets another."""
    return jax.vmap(lambda row, places, values: row.at[places].set(values, mode="drop"))(rows, at, new)


def _before(counts: jax.Array) -> jax.Array:
    """Returns the sum of the counts before each, along axis 1."""
    return jnp.cumsum(counts, axis=1) - counts


def _sizes(first: int, most: int) -> list[int]:
    """Returns the sizes that a memory takes: `first`, four times that, …, `most`.

    >>> _sizes(192, 100), _sizes(192, 1000)
    ([100], [192, 768, 1000])
    """
    sizes = [first]
    while sizes[-1] < most:
        sizes.append(4 * sizes[-1])
    return [*sizes[:-1], most]
