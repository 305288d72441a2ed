"""Greedy and beam search over the outputs the label automaton permits, token by token, without a model pass a token.

A hypothesis is a node of the `token_tree` (the last token that went through the decoder) and what was written since: at
most one tag, then pieces of the sentence, for a tag is only chosen where the node was reached. A pass feeds the tokens
that the search waits for, and after them the pieces that follow if nothing is tagged: as long as a hypothesis copies,
its next scores are there. The search then steps on in each sentence until one of its hypotheses needs a score that is
not there; sentences do not wait for each other.

A score needs a candidate's logit and a normaliser. Logits come from the few output columns a sentence can ever use,
gathered once before the loop; the normaliser is the choice:

    full      log-sum-exp over the whole vocabulary: the model's own probability, as the Medical mT5 authors score
    local     log-sum-exp over the permitted candidates: forced tokens are free and wait until the next decision, the
              vocabulary is never read
    marginal  as full, but a copy gets all the probability that no permitted tag has: whatever else the model would
              write there, the copy is what is written. Asks only "a tag, or not?", so a model that does not (yet) copy
              well is not pushed into tags by words that it cannot spell; for one that copies well it is `full`

The model is a function; whatever it returns, NaN included, every hypothesis obeys the automaton. The result is that of
a search with a pass a token: finished and open hypotheses compete at every step.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp

from medmt5.decoding.beam import FLOOR, descending, of_parents, rank
from medmt5.decoding.label_automaton import (
    COPY,
    OPEN,
    PAD_ID,
    LabelTables,
    State,
    advance,
    candidate_slots,
    candidates,
    sentence_ids,
    start,
)
from medmt5.decoding.token_tree import ExtendFn

Scoring = Literal["full", "local", "marginal"]

NOWHERE = -1  # a node that is not there
FIRST_SLOTS = 192


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


class _Tree(NamedTuple):
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


class _Beams(NamedTuple):
    """Hypotheses under way, best first; [batch, beam] unless it says otherwise. A sum of -inf means: none.

    state:   the automaton's, after all that is written
    node:    int32    the last token fed, or NOWHERE
    fed:     int32    tokens fed, the decoder's start included
    copied:  int32    pieces copied at the node
    tag:     int32    written after the node, before any piece: a tag or the decoder's start; NOWHERE if none
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


class _Record(NamedTuple):
    """What each step did, [batch, num_steps, beam]: the hypothesis it went on from, token, choice, `local` score."""

    parent: jax.Array
    token: jax.Array
    choice: jax.Array
    local: jax.Array


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
    tokens_per_pass: int | None = None,
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
      tokens_per_pass: of a sentence, at least `beam_size`. Changes speed alone.
    """
    if scoring not in get_args(Scoring):
        raise ValueError(f"scoring must be one of {', '.join(get_args(Scoring))}, not {scoring!r}")
    width = tokens_per_pass or max(8, 2 * beam_size)
    if width < beam_size:
        raise ValueError(f"tokens_per_pass must be at least beam_size = {beam_size}, not {width}")
    batch, num_columns = tables.source.shape
    word_ends = _word_ends(tables)
    score = _make_score(output_kernel, tables, scoring)

    def undone(beams: _Beams) -> jax.Array:
        return ~beams.state.done & (beams.lengths < num_steps)

    def blocked(beams: _Beams) -> jax.Array:
        """Which hypotheses cannot go on: [batch, beam] bool."""
        needs = undone(beams) & (beams.waiting > 0)
        if scoring == "local":
            _, allowed = candidates(tables, beams.state)
            needs &= jnp.sum(allowed, axis=-1) > 1
        return needs

    def feed(tree: _Tree, beams: _Beams) -> tuple[_Tree, _Beams]:
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
        nodes = State(position=copied, label=of_owner(state.label), has_word=~is_tag, done=jnp.zeros_like(real))
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
        tree = _Tree(
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

    def step(tree: _Tree, beams: _Beams, record: _Record, moves: jax.Array) -> tuple[_Beams, _Record]:
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
        after = advance(before.state, choice)
        after = State(after.position, after.label, after.has_word, after.done | jnp.isneginf(new_sums))
        # Along the chain of copies, if it is there.
        ahead = jnp.take_along_axis(tree.copy, before.node.clip(0), axis=1)
        arrives = (
            (choice == COPY) & ~was_done & (before.node != NOWHERE) & (before.tag == NOWHERE)
            & (before.fed == before.lengths) & (ahead != NOWHERE)
        )  # fmt: skip
        is_tag = ~was_done & ~after.done & (choice != COPY)
        moved = _Beams(
            state=after,
            node=jnp.where(arrives, ahead, before.node),
            fed=before.fed + arrives,
            copied=before.copied + arrives,
            tag=jnp.where(is_tag, token, before.tag),
            visible=before.visible | (arrives[..., None] & (jnp.arange(before.visible.shape[2]) == ahead[..., None])),
            sums=new_sums,
            lengths=before.lengths,
        )
        done_now = _Record(
            parent, token, jnp.where(was_done | jnp.isneginf(new_sums), -1, choice), jnp.where(was_done, 0.0, local)
        )
        at = jnp.where(moves, jnp.max(jnp.where(state.done, 0, beams.lengths), axis=1), num_steps)
        record = jax.tree.map(lambda whole, new: _put(whole, at, new), record, done_now)
        beams = jax.tree.map(
            lambda new, old: jnp.where(moves.reshape(-1, *(1,) * (new.ndim - 1)), new, old), moved, beams
        )
        return beams, record

    def may_move(beams: _Beams) -> jax.Array:
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

    def unfinished(beams: _Beams) -> jax.Array:
        return jnp.any(undone(beams))

    most = beam_size * (num_steps + 1) + width
    beams = _first(batch, beam_size)
    record = _Record(
        parent=jnp.broadcast_to(jnp.arange(beam_size), (batch, num_steps, beam_size)),
        token=jnp.full((batch, num_steps, beam_size), PAD_ID, jnp.int32),
        choice=jnp.full((batch, num_steps, beam_size), -1, jnp.int32),
        local=jnp.zeros((batch, num_steps, beam_size), jnp.float32),
    )
    num_candidates = OPEN + tables.open_ids.shape[0]
    tree = _Tree(memory, jnp.int32(0), *(jnp.zeros((batch, 0, num_candidates)),) * 2, jnp.zeros((batch, 0), jnp.int32))

    def search_in(sizes: list[int], tree: _Tree, beams: _Beams, *rest):
        """Goes on in a memory of the first size, and where live nodes no longer fit into that, of the next."""
        slots, last = sizes[0], len(sizes) == 1
        tree, beams = _grow(tree, beams, slots)

        def fits(carry):
            _, beams, *_ = carry
            live = jnp.max(jnp.sum(jnp.any(beams.visible & undone(beams)[..., None], axis=1), axis=-1))
            return unfinished(beams) & (last | (live + width <= slots * 3 // 4))

        def fill(carry):
            tree, beams, *rest = carry
            tree, beams = _compact(tree, beams, undone(beams))
            return jax.lax.while_loop(
                lambda carry: unfinished(carry[1]) & (carry[0].used + width <= slots),
                pass_and_steps,
                (tree, beams, *rest),
            )

        tree, beams, *rest = jax.lax.while_loop(fits, fill, (tree, beams, *rest))

        def found(_, beams, *rest):
            return beams._replace(visible=None), *rest

        if last:
            return found(tree, beams, *rest)
        return jax.lax.cond(unfinished(beams), partial(search_in, sizes[1:]), found, tree, beams, *rest)

    beams, record, passes = search_in(_sizes(most), tree, beams, record, jnp.zeros(batch, jnp.int32))
    return _hypotheses(beams, record, passes, normalize_length)


def _make_score(output_kernel: jax.Array, tables: LabelTables, scoring: Scoring):
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
        # > FLOOR: neither is NaN.
        return tuple(jnp.where(allowed, jnp.where(x > FLOOR, x, FLOOR), -jnp.inf) for x in (log_probs, local))

    return score


def _give_rest_to_copy(log_probs: jax.Array, allowed: jax.Array) -> jax.Array:
    """[batch, nodes, candidates] -> the same: a copy gets 1 - the other permitted ones, which share 1 without it."""
    is_copy = jnp.arange(log_probs.shape[-1]) == COPY
    others = jax.nn.logsumexp(jnp.where(allowed & ~is_copy, log_probs, -jnp.inf), axis=-1, keepdims=True)
    may_copy = allowed[..., COPY : COPY + 1]
    rest = jnp.log(-jnp.expm1(jnp.where(may_copy, jnp.minimum(others, -1e-7), -1.0)))
    return jnp.where(is_copy, rest, log_probs - jnp.where(may_copy, 0.0, others))


def _first(batch: int, beam_size: int) -> _Beams:
    """One live hypothesis a sentence, which waits for the decoder's start: padding."""
    live = jnp.broadcast_to(jnp.arange(beam_size) == 0, (batch, beam_size))
    state = start(batch, beam_size)
    nothing = jnp.zeros((batch, beam_size), jnp.int32)
    return _Beams(
        state=dataclasses.replace(state, done=~live),
        node=nothing + NOWHERE,
        fed=nothing,
        copied=nothing,
        tag=nothing + PAD_ID,
        visible=jnp.zeros((batch, beam_size, 0), bool),
        sums=jnp.where(live, 0.0, -jnp.inf),
        lengths=nothing,
    )


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


def _sizes(most: int) -> list[int]:
    """Returns the sizes that a memory takes: `FIRST_SLOTS`, four times that, …, `most`.

    >>> _sizes(100), _sizes(1000)
    ([100], [192, 768, 1000])
    """
    sizes = [FIRST_SLOTS]
    while sizes[-1] < most:
        sizes.append(4 * sizes[-1])
    return [*sizes[:-1], most]


def _grow(tree: _Tree, beams: _Beams, slots: int) -> tuple[_Tree, _Beams]:
    def pad(x: jax.Array, axis: int, value: Any = 0) -> jax.Array:
        widths = [(0, slots - n if i == axis else 0) for i, n in enumerate(x.shape)]
        return jnp.pad(x, widths, constant_values=value)

    return (
        _Tree(tree.memory.grow(slots), tree.used, pad(tree.score, 1), pad(tree.local, 1), pad(tree.copy, 1, NOWHERE)),
        beams._replace(visible=pad(beams.visible, 2)),
    )


def _compact(tree: _Tree, beams: _Beams, undone: jax.Array) -> tuple[_Tree, _Beams]:
    """Keeps the nodes of hypotheses that are under way, in order; what was fed ahead of them is given up."""
    live = jnp.any(beams.visible & undone[..., None], axis=1)
    order = jnp.argsort(~live, axis=1)
    place = jnp.argsort(order, axis=1)
    visible = beams.visible & undone[..., None]
    return (
        _Tree(
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


def _hypotheses(beams: _Beams, record: _Record, passes: jax.Array, normalize_length: bool) -> LabelHypotheses:
    """Follows the record from the end of each hypothesis back to its first token."""
    finished = beams.state.done & ~jnp.isneginf(beams.sums)
    scores = jnp.where(finished, rank(beams.sums, beams.lengths, normalize_length), -jnp.inf)
    order = descending(scores)

    def back(at: jax.Array, step: _Record):
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
