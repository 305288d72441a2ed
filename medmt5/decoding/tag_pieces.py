"""Tags that a vocabulary spells in several pieces, as arrays: what a begun tag can become, where it reads as a word.

mT5's own vocabulary writes `<Disease>` as `▁<`, `Dis`, `ease`, `>`: the tags of several labels begin alike, and so does
the word `<`. Made in numpy for a batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np
from flax import struct

from medmt5.errors import InputError

Array = jax.Array | np.ndarray


@struct.dataclass
class TagPieces:
    """What `label_automaton` must know of tags of several pieces; "most" is the pieces of the longest opening tag.

    open_lengths:  [labels] int32                 pieces of the tag
    close_lengths: [labels] int32
    shared:        [labels, labels] int32         first pieces that two opening tags have in common
    first:         [batch, most, labels] bool     of the permitted labels whose opening tags share n + 1 first pieces,
                                                  the label is the first, and so stands for all of them
    like_open:     [batch, pieces, labels] int32  first pieces that the opening tag has in common with the word that
                                                  begins here; 0 where none begins
    like_close:    [batch, pieces, labels] int32
    word_start:    [batch, pieces] int32          where the piece's word begins
    """

    open_lengths: Array
    close_lengths: Array
    shared: Array
    first: Array
    like_open: Array
    like_close: Array
    word_start: Array


def make_tag_pieces(
    opens: Sequence[Sequence[int]],
    closes: Sequence[Sequence[int]],
    permitted: np.ndarray,
    source: np.ndarray,
    word_end: np.ndarray,
    num_pieces: np.ndarray,
) -> TagPieces:
    """Returns the arrays for the tags of each label and the other arrays of `label_automaton.LabelTables`.

    Raises:
      InputError: an opening tag with which another one begins: the shorter one could be read into the longer.
    """
    open_ids, close_ids = pad(opens, -1), pad(closes, -1)
    shared = _common(open_ids[:, None], pad(opens, -2)[None])
    for one, other in np.argwhere(shared == np.array([len(pieces) for pieces in opens])[:, None]):
        if one != other:
            raise InputError(
                f"the opening tag of label {other}, pieces {list(opens[other])}, begins with that of label {one}, "
                f"{list(opens[one])}, and could not be told from it; give one of them another name"
            )
    starts = np.ones_like(word_end)
    starts[:, 1:] = word_end[:, :-1]
    columns = np.arange(source.shape[1])
    word_start = np.maximum.accumulate(np.where(starts, columns, 0), axis=1)
    word_start[columns >= num_pieces[:, None]] = -1

    def like(tags: np.ndarray) -> np.ndarray:
        most = tags.shape[1]
        ids, of_word = (
            np.lib.stride_tricks.sliding_window_view(np.pad(x, ((0, 0), (0, most - 1)), constant_values=-1), most, 1)
            for x in (source, word_start)
        )
        words = np.where(of_word == columns[:, None], ids, -2)  # [batch, pieces, most], of the word that begins here
        return _common(words[:, :, None], tags)

    # [most, labels, labels]: the second label has the same n + 1 pieces and stands before the first.
    before = (shared > np.arange(open_ids.shape[1])[:, None, None]) & np.tri(len(opens), k=-1, dtype=bool)
    return TagPieces(
        open_lengths=np.array([len(pieces) for pieces in opens], np.int32),
        close_lengths=np.array([len(pieces) for pieces in closes], np.int32),
        shared=shared,
        first=permitted[:, None] & ~np.any(before & permitted[:, None, None], axis=-1),
        like_open=like(open_ids),
        like_close=like(close_ids),
        word_start=np.maximum(word_start, 0),
    )


def pad(tags: Sequence[Sequence[int]], filler: int) -> np.ndarray:
    """Returns [tags, most] int32, `filler` behind those that are shorter."""
    padded = np.full((len(tags), max(map(len, tags), default=1)), filler, np.int32)
    for row, pieces in zip(padded, tags, strict=True):
        row[: len(pieces)] = pieces
    return padded


def _common(ones: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Returns how many first pieces, along the last axis, are equal: int32."""
    alike, count = np.True_, np.int32(0)
    for n in range(ones.shape[-1]):
        alike = alike & (ones[..., n] == others[..., n])
        count = count + alike.astype(np.int32)
    return np.asarray(count, np.int32)
