"""Rows and dtypes seen otherwise are those of NumPy's indexing, whole and in part."""

import ml_dtypes
import numpy as np
import pytest

from medmt5.conversion import views
from medmt5.conversion.views import ROW_AXES, AsDtype, RowsOf


@pytest.mark.parametrize("rows", [[0, 1, 2, 5, 4, -1, -1, 0, 1, -1, 639], list(range(7, 300)), [-1], []])
def test_rows_are_picked_and_missing_ones_are_the_mean(weights, rows, monkeypatch):
    monkeypatch.setattr(views, "BLOCK_ROWS", 100)
    seen = RowsOf(weights, rows, 600)
    for name, axis in ROW_AXES.items():
        table = np.moveaxis(weights[name], axis, 0)
        mean = table[:600].mean(0, dtype=np.float64).astype(np.float32)
        expected = np.moveaxis(np.array([table[i] if i >= 0 else mean for i in rows]).reshape(-1, 32), 0, axis)
        assert seen.tensors()[name].shape == expected.shape
        np.testing.assert_allclose(seen.read(name), expected, rtol=1e-6, atol=1e-7)
        for part in ((slice(1, 6), slice(3, 9)), (slice(0, 0), slice(None))):
            np.testing.assert_allclose(seen.read(name, part), expected[part], rtol=1e-6, atol=1e-7)
    name = "encoder/layers/mlp/wo/kernel"
    assert seen.tensors()[name] == weights.tensors()[name]
    np.testing.assert_array_equal(seen.read(name), weights[name])


def test_another_dtype_is_rounded(weights):
    name = "encoder/layers/mlp/wo/kernel"
    half = AsDtype(weights, "bfloat16")
    assert half.tensors()[name].dtype == "bfloat16"
    np.testing.assert_array_equal(half.read(name), weights[name].astype(ml_dtypes.bfloat16))
