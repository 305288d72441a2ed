"""What passes from data to training: names, dtypes and shapes of a batch. Nothing else is shared between the two.

A batch is a dict of numpy arrays; `batch` is always the global batch size, 0 is padding everywhere.

    encoder_input_tokens    [batch, inputs]   int32
    decoder_input_tokens    [batch, targets]  int32    targets shifted right; starts with 0 (T5's decoder start is pad)
    decoder_target_tokens   [batch, targets]  int32
    decoder_loss_weights    [batch, targets]  float32  1 on real targets, EOS included
  and only in packed batches, where several examples share a row (segments count from 1 within a row):
    encoder_segment_ids     [batch, inputs]   int32
    decoder_segment_ids     [batch, targets]  int32
    encoder_positions       [batch, inputs]   int32    position within the segment
    decoder_positions       [batch, targets]  int32
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

Batch = Mapping[str, np.ndarray]

DTYPES = {
    "encoder_input_tokens": np.int32,
    "decoder_input_tokens": np.int32,
    "decoder_target_tokens": np.int32,
    "decoder_loss_weights": np.float32,
}
PACKED_DTYPES = {
    "encoder_segment_ids": np.int32,
    "decoder_segment_ids": np.int32,
    "encoder_positions": np.int32,
    "decoder_positions": np.int32,
}


def shapes(batch_size: int, inputs: int, targets: int, packed: bool = False) -> dict[str, tuple[tuple[int, int], type]]:
    """Returns name -> (shape, dtype) of a batch of `batch_size` examples, `inputs` and `targets` tokens long.

    >>> shapes(8, 512, 114)["decoder_target_tokens"]
    ((8, 114), <class 'numpy.int32'>)
    """
    names = DTYPES | (PACKED_DTYPES if packed else {})
    return {
        name: ((batch_size, inputs if name.startswith("encoder") else targets), dtype) for name, dtype in names.items()
    }


def shift_right(targets: np.ndarray, segment_ids: np.ndarray | None = None) -> np.ndarray:
    """Returns decoder inputs [batch, targets] int32 for targets [batch, targets] int32: one 0, then all but the last.

    With the segment ids of packed targets, [batch, targets] int32, each segment is shifted for itself.

    >>> shift_right(np.array([[5, 6, 1, 0]], np.int32)).tolist()
    [[0, 5, 6, 1]]
    >>> shift_right(np.array([[5, 1, 7, 8, 1, 0]], np.int32), np.array([[1, 1, 2, 2, 2, 0]], np.int32)).tolist()
    [[0, 5, 0, 7, 8, 0]]
    """
    shifted = np.zeros_like(targets)
    shifted[:, 1:] = targets[:, :-1]
    if segment_ids is not None:
        shifted[_begins(segment_ids)] = 0
    return shifted


def positions(segment_ids: np.ndarray) -> np.ndarray:
    """Returns the position of each token within its segment, [batch, length] int32, for segment ids of that shape.

    >>> positions(np.array([[1, 1, 2, 2, 2, 0, 0]], np.int32)).tolist()
    [[0, 1, 0, 1, 2, 0, 0]]
    """
    columns = np.arange(segment_ids.shape[1], dtype=np.int32)
    starts = np.maximum.accumulate(columns * _begins(segment_ids), axis=1)
    return (columns - starts) * (segment_ids > 0)


def _begins(segment_ids: np.ndarray) -> np.ndarray:
    """Returns where a segment, or the padding, begins: [batch, length] bool."""
    begins = np.ones(segment_ids.shape, bool)
    begins[:, 1:] = segment_ids[:, 1:] != segment_ids[:, :-1]
    return begins
