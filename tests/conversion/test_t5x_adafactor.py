"""The optimizer state that T5X expects beside fresh parameters."""

import pytest

from medmt5.conversion.t5x_adafactor import first_state


@pytest.mark.parametrize(
    ("axes", "shape", "slots"),
    [  # as T5X factors them
        ("VD", (300, 200), {"v_row": (200,), "v_col": (300,)}),
        ("DF", (200, 100), {"v": (200, 100)}),
        ("D", (200,), {"v": (200,)}),
        ("DM", (200, 300), {"v": (200, 300)}),
        ("HMB", (8, 3, 32), {"v": (8, 3, 32)}),
        ("DMHK", (200, 3, 8, 64), {"v_row": (200, 3), "v_col": (3, 8, 64)}),
        ("HMKD", (8, 3, 64, 200), {"v_row": (3, 200), "v_col": (8, 3, 64)}),
        ("FND", (300, 3, 200), {"v_row": (3, 200), "v_col": (300, 3)}),
    ],
)
def test_adafactor_before_its_first_step(axes, shape, slots):
    state = first_state(axes, shape)
    unused = dict.fromkeys(("m", "v", "v_row", "v_col"), (1,))
    assert {slot: x.shape for slot, x in state.items()} == unused | slots
