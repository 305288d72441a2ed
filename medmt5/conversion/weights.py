"""What every format is read as: weights under our names and in our layout, one tensor at a time.

Names are paths of our parameters joined by "/", as `encoder/layers/attention/query/kernel`; layers are stacked on
axis 0. A format module opens its files as `Weights` and writes its files from any `Weights`, so a conversion is
`write(path, open(source))` and holds no more in memory than the tensor under way.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np


class TensorInfo(NamedTuple):
    """Shape and dtype, as NumPy (with ml_dtypes) names it: "float32", "bfloat16"."""

    shape: tuple[int, ...]
    dtype: str


class Weights(Protocol):
    """An open checkpoint."""

    def tensors(self) -> dict[str, TensorInfo]:
        """Returns every parameter by our name, from the headers: nothing is read."""

    def read(self, name: str, index: tuple[slice, ...] | None = None) -> np.ndarray:
        """Returns one parameter in our layout, or the part of it at `index` (unit steps), reading no more than that."""
