"""The state of T5X's Adafactor before its first step: T5X restores no checkpoint for training without one.

Squared gradients of a matrix are kept as means over its rows and its columns; which axis is which follows T5X's
`standard_logical_factor_rules`, from three axes on. Of one or two axes T5X goes by size instead.
"""

from __future__ import annotations

import numpy as np

ROW, COLUMN = "D", "VHKF"  # letters of `t5x_layout`
MIN_DIM_SIZE_TO_FACTOR = 128


def first_state(axes: str, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Returns {m, v, v_row, v_col}, float32 zeros, of a parameter with these axes; (1,) for what it does not use."""
    state: dict[str, tuple[int, ...]] = dict.fromkeys(("m", "v", "v_row", "v_col"), (1,))
    if len(shape) > 2 and any(axis == ROW for axis in axes):
        state["v_row"] = tuple(n for axis, n in zip(axes, shape, strict=True) if axis not in COLUMN)
        state["v_col"] = tuple(n for axis, n in zip(axes, shape, strict=True) if axis != ROW)
    elif len(shape) == 2 and not set(axes) & set("MN") and min(shape) >= MIN_DIM_SIZE_TO_FACTOR:
        smaller, larger = np.argsort(shape)
        state["v_row"], state["v_col"] = (shape[smaller],), (shape[larger],)
    else:
        state["v"] = shape
    return {slot: np.zeros(dims, np.float32) for slot, dims in state.items()}
