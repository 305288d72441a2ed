"""What a token store holds for training, by number: pairs, or chunks of text.

Both have a length, the examples of an epoch, and read any of them in one go. They neither shuffle, mix, corrupt nor
pad: `loader` does.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

import numpy as np

from medmt5.errors import InputError
from medmt5.tokens import span_corruption
from medmt5.tokens.store import TokenStore

logger = logging.getLogger(__name__)


class Pairs:
    """The examples of a "pairs" store that fit `feature_lengths`, for a trimmed target is no valid one."""

    def __init__(self, store: TokenStore, feature_lengths: Mapping[str, int]):
        self._store, self._feature_lengths = store, feature_lengths
        limits = [feature_lengths[feature] for feature in store.features]
        self._indices = np.flatnonzero(np.all(store.lengths <= limits, axis=1))
        if not len(self._indices):
            raise InputError(
                f"{store.name}: all {len(store)} examples are longer than {self._limits()}; raise TASK_FEATURE_LENGTHS"
            )

    def __len__(self) -> int:
        return len(self._indices)

    def records(self, i: int) -> tuple[int, int]:
        """Returns the first and the last record of the store that example `i` is made of: it is one."""
        return int(self._indices[i]), int(self._indices[i])

    def read(self, indices: np.ndarray) -> list[dict[str, np.ndarray]]:
        """Returns examples {"inputs", "targets"}, [length] int32 each, ending with EOS."""
        return self._store.read(self._indices[indices])

    def warn_of_overlong(self) -> None:
        """Logs how many examples are left out, if any are."""
        if overlong := len(self._store) - len(self):
            longest = ", ".join(map(str, self._store.lengths.max(axis=0)))
            logger.warning(
                "%s: %d of %d examples are longer than %s and left out (longest: %s); raise TASK_FEATURE_LENGTHS",
                self._store.name, overlong, len(self._store), self._limits(), longest,
            )  # fmt: skip

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

    def __len__(self) -> int:
        return -(-self._store.num_tokens // self.chunk_tokens)

    def records(self, i: int) -> tuple[int, int]:
        """Returns the first and the last record of the store that chunk `i` is cut from."""
        start = i * self.chunk_tokens
        return self._store.records_of(start, min(start + self.chunk_tokens, self._store.num_tokens))

    def read(self, indices: np.ndarray) -> list[np.ndarray]:
        """Returns texts, [length] int32 each, without EOS."""
        starts = indices * self.chunk_tokens
        return self._store.read_text(starts, np.minimum(starts + self.chunk_tokens, self._store.num_tokens))
