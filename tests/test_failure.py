"""What a training that fails ends with."""

import pytest

from medmt5.errors import InputError
from medmt5.failure import SaveError, exit_code


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (KeyboardInterrupt(), 130),
        (SaveError("x"), 74),
        (OSError(28, "No space left on device"), 74),
        (InputError("x"), 2),
        (FileNotFoundError(2, "No such file"), 2),
        (ZeroDivisionError(), 1),
    ],
)
def test_exit_codes(error, code):
    assert exit_code(error) == code
