"""Weights seen otherwise: with other rows of the vocabulary (more, fewer, labels at our ids), in another dtype."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medmt5.conversion.weights import TensorInfo, Weights

BLOCK_ROWS = 4096
ROW_AXES = {"token_embedder/embedding": 0, "decoder/logits_dense/kernel": 1}


class RowsOf:
    """`Weights` whose row i of both matrices of the vocabulary is row `rows[i]` of `weights`; where that is -1, the
    mean of the first `num_pieces` rows (Hewitt 2021: a new token is then no likelier than others).
    """

    def __init__(self, weights: Weights, rows: Sequence[int], num_pieces: int):
        self._weights, self._rows, self._num_pieces = weights, np.asarray(rows), num_pieces

    def tensors(self) -> dict[str, TensorInfo]:
        infos = dict(self._weights.tensors())
        for name, axis in ROW_AXES.items():
            shape = list(infos[name].shape)
            shape[axis] = len(self._rows)
            infos[name] = TensorInfo(tuple(shape), infos[name].dtype)
        return infos

    def read(self, name: str, index: tuple[slice, ...] | None = None) -> np.ndarray:
        if name not in ROW_AXES:
            return self._weights.read(name, index)
        axis = ROW_AXES[name]
        index = index or (slice(None), slice(None))
        rows = self._rows[index[axis]]
        across = index[1 - axis]
        # Rows that follow each other are read together: nearly all of them do.
        breaks = np.flatnonzero((np.diff(rows) != 1) | (rows[:-1] < 0)) + 1
        starts, stops = np.concatenate([[0], breaks]), np.concatenate([breaks, [len(rows)]])
        if len(starts) == 1 and len(rows) and rows[0] >= 0:
            return self._weights.read(name, self._place(axis, slice(rows[0], rows[-1] + 1), across))
        width = len(range(self.tensors()[name].shape[1 - axis])[across])
        out = np.empty((len(rows), width), np.dtype(self._weights.tensors()[name].dtype))
        if (rows < 0).any():
            out[rows < 0] = self._mean(name, axis, across)
        for start, stop in zip(starts, stops, strict=True):
            if start == stop or rows[start] < 0:
                continue
            for at in range(start, stop, BLOCK_ROWS):
                some = slice(rows[at], rows[min(at + BLOCK_ROWS, stop) - 1] + 1)
                read = self._weights.read(name, self._place(axis, some, across))
                out[at : min(at + BLOCK_ROWS, stop)] = read if axis == 0 else read.T
        return out if axis == 0 else out.T

    def _mean(self, name: str, axis: int, across: slice) -> np.ndarray:
        total = np.zeros(len(range(self.tensors()[name].shape[1 - axis])[across]))
        for start in range(0, self._num_pieces, BLOCK_ROWS):
            rows = slice(start, min(start + BLOCK_ROWS, self._num_pieces))
            total += self._weights.read(name, self._place(axis, rows, across)).sum(axis=axis, dtype=np.float64)
        return total / self._num_pieces

    @staticmethod
    def _place(axis: int, rows: slice, across: slice) -> tuple[slice, slice]:
        rows = slice(int(rows.start), int(rows.stop))
        return (rows, across) if axis == 0 else (across, rows)


class AsDtype:
    """`Weights` in another dtype."""

    def __init__(self, weights: Weights, dtype: str):
        self._weights, self._dtype = weights, dtype

    def tensors(self) -> dict[str, TensorInfo]:
        return {name: TensorInfo(info.shape, self._dtype) for name, info in self._weights.tensors().items()}

    def read(self, name: str, index: tuple[slice, ...] | None = None) -> np.ndarray:
        return self._weights.read(name, index).astype(self._dtype, copy=False)
