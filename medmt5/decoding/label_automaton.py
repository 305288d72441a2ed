"""The rules of tagged text as arrays: which tokens may come next when a sentence is copied and its mentions are tagged.

    outside --open--> inside, no word yet --copy words--> inside --close--> outside --EOS, all copied--> done

Words are copied whole and in order. A tag opens outside only, if words are left and its label is permitted for the
sentence; it closes after at least one whole word, and nothing nests. EOS comes when all is copied and no tag is open;
then there is only padding. So a step has at most 2 + labels candidates, within a word exactly one, and never none.
What a hypothesis has done is known from its choices of candidates, not from ids: a piece may share its id with a tag,
EOS or padding and is still a copied piece.

A tag is one token or, for all labels of a batch, any number of pieces (`tag_pieces`). A piece of a tag is a choice like
a token: `END` for each piece of a closing tag, `OPEN + l` for each of an opening one, where l is the first of the
permitted labels whose tags go on with this piece; so the last choice of a run names the label. A begun tag is written
to its end. The automaton of tags of one token has no arrays for this, nor any step in its programs.

Works on [batch, beam] hypotheses at once, traceable by jax. What a choice costs is the business of `search`.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from medmt5.decoding.tag_pieces import TagPieces, make_tag_pieces, pad
from medmt5.errors import InputError

PAD_ID, EOS_ID = 0, 1  # T5's, and so every vocabulary of ours
COPY, END, OPEN = 0, 1, 2  # candidates: the next piece; the closing tag inside, EOS outside; OPEN + l opens label l


Array = jax.Array | np.ndarray


@struct.dataclass
class LabelTables:
    """What the outputs of a batch of sentences are made of.

    source:     [batch, pieces] int32   ids of the sentence's pieces, 0 = padding
    word_end:   [batch, pieces] bool    the piece is the last of its word
    num_pieces: [batch]         int32
    open_ids:   [labels, most]  int32   the pieces that open a label, then 0
    close_ids:  [labels, most]  int32   the pieces that close it
    permitted:  [batch, labels] bool    the label may be used in the sentence
    tags:       of tags of several pieces; None where every tag is one
    """

    source: Array
    word_end: Array
    num_pieces: Array
    open_ids: Array
    close_ids: Array
    permitted: Array
    tags: TagPieces | None = None


@struct.dataclass
class State:
    """Where each hypothesis stands; all [batch, beam].

    position: int32  pieces copied
    label:    int32  the label whose tag is open or begun, -1 outside
    since:    int32  pieces copied when the last tag was whole; 0 before any
    done:     bool   EOS is written
    written:  int32  pieces of a begun tag: n of the opening, -n of the closing one, 0 if none is begun; None where
                     every tag is one token
    """

    position: jax.Array
    label: jax.Array
    since: jax.Array
    done: jax.Array
    written: jax.Array | None = None

    @property
    def has_word(self) -> jax.Array:
        """Pieces were copied since the last tag; between words that means whole words."""
        return self.position > self.since


def build_tables(
    sentences: Sequence[Sequence[Sequence[int]]],
    open_ids: Sequence[int] | Sequence[Sequence[int]],
    close_ids: Sequence[int] | Sequence[Sequence[int]],
    permitted: np.ndarray | Sequence[bool] | Sequence[Sequence[bool]],
    num_pieces_padded: int,
) -> LabelTables:
    """Returns the tables, in numpy, of sentences given as the piece ids of each word.

    >>> tables = build_tables([[[7, 8], [9]], []], [20], [21], [True], num_pieces_padded=4)
    >>> tables.source.tolist(), tables.num_pieces.tolist()
    ([[7, 8, 9, 0], [0, 0, 0, 0]], [3, 0])
    >>> tables.word_end[0].tolist(), tables.permitted.tolist()
    ([False, True, True, False], [[True], [True]])

    Args:
      open_ids, close_ids: of each label the token, or the pieces.
      permitted: [labels] bool for all sentences alike, or [batch, labels].
      num_pieces_padded: columns of the tables, at least 1; see `buckets.bucket_length`.

    Raises:
      InputError: no sentence, a word without pieces, or a sentence with more pieces than fit; tags without pieces, or
        that cannot be told apart (see `make_tag_pieces`).
    """
    if not sentences:
        raise InputError("label tables need at least one sentence, got none")
    if len(open_ids) != len(close_ids):
        raise InputError(f"every label needs one opening and one closing tag, got {len(open_ids)} and {len(close_ids)}")
    opens, closes = ([[tag] if isinstance(tag, int) else tag for tag in tags] for tags in (open_ids, close_ids))
    lengths = [len(pieces) for pieces in (*opens, *closes)]
    if 0 in lengths:
        raise InputError(f"label {lengths.index(0) % len(opens)} has a tag without pieces; give it another name")
    shape = (len(sentences), num_pieces_padded)
    source, word_end = np.zeros(shape, np.int32), np.zeros(shape, bool)
    num_pieces = np.array([sum(map(len, words)) for words in sentences], np.int32)
    if num_pieces.max() > num_pieces_padded or num_pieces_padded < 1:
        raise InputError(
            f"sentence {num_pieces.argmax()} has {num_pieces.max()} pieces, num_pieces_padded is {num_pieces_padded}; "
            f"raise it to {max(1, num_pieces.max())} or more"
        )
    for row, words in enumerate(sentences):
        word_lengths = [len(pieces) for pieces in words]
        if 0 in word_lengths:
            raise InputError(
                f"word {word_lengths.index(0)} of sentence {row} has no pieces; encode it as the unknown piece"
            )
        source[row, : num_pieces[row]] = [piece for pieces in words for piece in pieces]
        word_end[row, np.cumsum(word_lengths, dtype=int) - 1] = True
    permitted = np.array(np.broadcast_to(np.asarray(permitted, bool), (len(sentences), len(opens))))
    several = max(lengths, default=1) > 1
    return LabelTables(
        source=source,
        word_end=word_end,
        num_pieces=num_pieces,
        open_ids=pad(opens, 0),
        close_ids=pad(closes, 0),
        permitted=permitted,
        tags=make_tag_pieces(opens, closes, permitted, source, word_end, num_pieces) if several else None,
    )


def max_steps(tables: LabelTables) -> int:
    """Returns the tokens of the longest permitted output of the batch: every word in a tag of its own, and EOS.

    >>> [max_steps(build_tables([[[7, 8], [9]]], [20], [21], [permitted], 4)) for permitted in (True, False)]
    [8, 4]
    """
    of_label = 2 if tables.tags is None else np.asarray(tables.tags.open_lengths) + tables.tags.close_lengths
    tags = np.max(np.where(tables.permitted, of_label, 0), axis=1, initial=0) * np.sum(tables.word_end, axis=1)
    return int(np.max(np.asarray(tables.num_pieces) + tags)) + 1


def start(tables: LabelTables, beam_size: int = 1) -> State:
    """Returns the state before the first token."""
    shape = (tables.source.shape[0], beam_size)
    return State(
        position=jnp.zeros(shape, jnp.int32),
        label=jnp.full(shape, -1, jnp.int32),
        since=jnp.zeros(shape, jnp.int32),
        done=jnp.zeros(shape, bool),
        written=None if tables.tags is None else jnp.zeros(shape, jnp.int32),
    )


def sentence_ids(tables: LabelTables) -> jax.Array:
    """Returns every id a sentence's outputs can hold, [batch, slots] int32: pieces, EOS, opening tags, closing tags."""
    tags = jnp.concatenate(
        [
            jnp.array([EOS_ID], jnp.int32),
            jnp.ravel(jnp.asarray(tables.open_ids)),
            jnp.ravel(jnp.asarray(tables.close_ids)),
        ]
    )
    return jnp.concatenate([tables.source, jnp.broadcast_to(tags, (tables.source.shape[0], tags.size))], axis=1)


def candidate_slots(tables: LabelTables, state: State) -> jax.Array:
    """Returns where in `sentence_ids` each candidate stands, [batch, beam, 2 + labels] int32, permitted or not."""
    num_columns, (num_labels, most_open) = tables.source.shape[1], tables.open_ids.shape
    first_open = num_columns + 1
    copy = jnp.minimum(state.position, num_columns - 1)
    close = first_open + num_labels * most_open + state.label * tables.close_ids.shape[1]
    opens = first_open + jnp.arange(num_labels, dtype=jnp.int32) * most_open
    opens = jnp.broadcast_to(opens, (*copy.shape, num_labels))
    if state.written is not None:
        close = close + jnp.maximum(-state.written, 0)
        opens = opens + jnp.maximum(state.written, 0)[..., None]
    end = jnp.where(state.label < 0, num_columns, close)
    return jnp.concatenate([copy[..., None], end[..., None], opens], axis=-1)


def candidates(tables: LabelTables, state: State) -> tuple[jax.Array, jax.Array]:
    """Returns (ids int32, allowed bool), both [batch, beam, 2 + labels]; at least one candidate is always allowed.

    A hypothesis that is done may only take `COPY`, whose id is then padding.
    """
    num_pieces = jnp.asarray(tables.num_pieces)[:, None]
    outside = state.label < 0
    before_piece = state.position < num_pieces
    copied = (state.position - 1).clip(0)  # the piece copied last
    within_word = (state.position > 0) & ~jnp.take_along_axis(jnp.asarray(tables.word_end), copied, axis=1)
    copy = state.done | before_piece
    end = ~state.done & ~within_word & jnp.where(outside, ~before_piece, state.has_word)
    opens = ~state.done & ~within_word & outside & before_piece
    opens = opens[..., None] & jnp.asarray(tables.permitted)[:, None, :]
    if tables.tags is not None and state.written is not None:
        none_begun, pieces = state.done | (state.written == 0), state.written.clip(0)
        copy = state.done | (before_piece & none_begun)
        end = jnp.where(none_begun, end, state.written < 0)
        alike = jnp.asarray(tables.tags.shared)[state.label.clip(0)] >= pieces[..., None]
        opens = jnp.where(none_begun[..., None], opens, (state.written > 0)[..., None] & alike)
        opens = opens & jnp.take_along_axis(jnp.asarray(tables.tags.first), pieces[..., None], axis=1)
    allowed = jnp.concatenate([copy[..., None], end[..., None], opens], axis=-1)
    ids = jnp.take_along_axis(sentence_ids(tables)[:, None, :], candidate_slots(tables, state), axis=2)
    return jnp.where(state.done[..., None], PAD_ID, ids), allowed


def advance(tables: LabelTables, state: State, choice: jax.Array) -> State:
    """Returns the state after each hypothesis took candidate `choice` [batch, beam] int32, one of its allowed ones."""
    copies, ends, opens = (~state.done & taken for taken in (choice == COPY, choice == END, choice >= OPEN))
    closes = ends & (state.label >= 0)
    opened, closed, written = opens, closes, state.written
    if tables.tags is not None and written is not None:
        written = written + opens - closes
        length = jnp.where(
            opens,
            jnp.asarray(tables.tags.open_lengths)[(choice - OPEN).clip(0)],
            jnp.asarray(tables.tags.close_lengths)[state.label.clip(0)],
        )
        whole = jnp.abs(written) == length
        opened, closed, written = opens & whole, closes & whole, jnp.where(whole, 0, written)
    return State(
        position=state.position + copies,
        label=jnp.where(opens, choice - OPEN, jnp.where(closed, -1, state.label)),
        since=jnp.where(opened | closed, state.position, state.since),
        done=state.done | (ends & ~closes),
        written=written,
    )
