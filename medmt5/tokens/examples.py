"""What a token store holds for training, row by row of a batch: pairs, or chunks of text.

Both have a length, the rows of an epoch, and read any of them in one go. They neither shuffle, mix, corrupt nor pad:
`loader` does.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

import numpy as np

from medmt5.errors import InputError
from medmt5.tokens import span_corruption
from medmt5.tokens.packing import pack
from medmt5.tokens.shuffle import Shuffle
from medmt5.tokens.store import TokenStore

logger = logging.getLogger(__name__)


class Pairs:
    """The examples of a "pairs" store that fit `feature_lengths`, for a trimmed target is no valid one.

    Without `packing_seed` a row is one of them, in the store's order. With it a row is as many as `packing` finds room
    for, packed once, in an order that the seed decides: so every epoch has the same rows, and the row of any step is
    known without packing the epochs before it.
    """

    def __init__(self, store: TokenStore, feature_lengths: Mapping[str, int], packing_seed: int | None = None):
        self._store, self._feature_lengths = store, feature_lengths
        limits = np.array([feature_lengths[feature] for feature in store.features])
        self._records = np.flatnonzero(np.all(store.lengths <= limits, axis=1))  # row after row
        self.num_examples = len(self._records)
        if not self.num_examples:
            raise InputError(
                f"{store.name}: all {len(store)} examples are longer than {self._limits()}; raise TASK_FEATURE_LENGTHS"
            )
        self._ends = np.arange(1, self.num_examples + 1)  # of each row among the records
        if packing_seed is not None:
            _, order = Shuffle(self.num_examples, packing_seed)(np.arange(self.num_examples))
            shuffled = self._records[order]
            rows = pack(store.lengths[shuffled], limits)
            self._records, self._ends = shuffled[np.argsort(rows, kind="stable")], np.cumsum(np.bincount(rows))

    def __len__(self) -> int:
        return len(self._ends)

    def records(self, row: int) -> list[tuple[int, int]]:
        """Returns the first and the last record of the store that each example of `row` is made of: it is one."""
        return [(record, record) for record in self._records_of(row).tolist()]

    def read(self, rows: np.ndarray) -> list[list[dict[str, np.ndarray]]]:
        """Returns the examples {"inputs", "targets"} of each row, [length] int32 each, ending with EOS."""
        records = [self._records_of(row) for row in rows]
        examples = iter(self._store.read(np.concatenate(records)))
        return [[next(examples) for _ in of_row] for of_row in records]

    def warn_of_overlong(self) -> None:
        """Logs how many examples are left out, if any are."""
        if overlong := len(self._store) - self.num_examples:
            longest = ", ".join(map(str, self._store.lengths.max(axis=0)))
            logger.warning(
                "%s: %d of %d examples are longer than %s and left out (longest: %s); raise TASK_FEATURE_LENGTHS",
                self._store.name, overlong, len(self._store), self._limits(), longest,
            )  # fmt: skip

    def _records_of(self, row: int) -> np.ndarray:
        return self._records[self._ends[row - 1] if row else 0 : self._ends[row]]

    def _limits(self) -> str:
        return ", ".join(f"{feature} {self._feature_lengths[feature]}" for feature in self._store.features)


class Chunks:
    """The documents of a store, one after the other, cut into chunks of equal length; the last may be shorter.

    No EOS stands between documents, as T5 has it. They keep the store's order: it is the chunks that are shuffled.
    """

    def __init__(self, store: TokenStore, feature_lengths: Mapping[str, int]):
        self._store = store
        self.chunk_tokens, targets = span_corruption.raw_length(feature_lengths["inputs"])
        if feature_lengths["targets"] < targets:
            raise InputError(
                f"span corruption to inputs of {feature_lengths['inputs']} tokens makes targets of {targets}, but "
                f"TASK_FEATURE_LENGTHS gives them {feature_lengths['targets']}; set 'targets' to {targets}"
            )

        self.num_examples = -(-store.num_tokens // self.chunk_tokens)

    def __len__(self) -> int:
        return self.num_examples

    def records(self, row: int) -> list[tuple[int, int]]:
        """Returns the first and the last record of the store that the one chunk of `row` is cut from."""
        start = row * self.chunk_tokens
        return [self._store.records_of(start, min(start + self.chunk_tokens, self._store.num_tokens))]

    def read(self, rows: np.ndarray) -> list[np.ndarray]:
        """Returns texts, [length] int32 each, without EOS."""
        starts = rows * self.chunk_tokens
        return self._store.read_text(starts, np.minimum(starts + self.chunk_tokens, self._store.num_tokens))
