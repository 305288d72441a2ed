"""A small mT5 of random weights, as names and arrays, and as a MODEL_DIR."""

import numpy as np
import pytest

from medmt5.conversion.checkpoint import write_checkpoint
from medmt5.conversion.parameters import parameter_shapes
from medmt5.conversion.weights import TensorInfo
from medmt5.model.mt5 import MT5Config
from medmt5.model_files import ModelFiles, write_model_files

CONFIG = MT5Config(
    vocab_size=640, emb_dim=32, num_heads=4, num_encoder_layers=2, num_decoder_layers=3, head_dim=8, mlp_dim=48
)


class Arrays(dict):
    """`Weights` in memory."""

    def tensors(self):
        return {name: TensorInfo(array.shape, array.dtype.name) for name, array in self.items()}

    def read(self, name, index=None):
        return self[name][index or ...]


def draw(config, seed=0):
    rng = np.random.default_rng(seed)
    weights = Arrays()
    for name, shape in parameter_shapes(config).items():
        scale = 1.0 if len(shape) < 2 or "embed" in name else shape[-2] ** -0.5
        weights[name] = rng.normal(0, scale, shape).astype(np.float32)
    return weights


def assert_same_bits(a, b):
    """Of two `Weights`."""
    assert a.tensors() == b.tensors()
    for name in a.tensors():
        assert np.ascontiguousarray(a.read(name)).tobytes() == np.ascontiguousarray(b.read(name)).tobytes(), name


@pytest.fixture(scope="session")
def random_weights():
    """(config, seed) -> weights."""
    return draw


@pytest.fixture(scope="session")
def in_memory():
    """name -> array made `Weights`."""
    return Arrays


@pytest.fixture(scope="session")
def same_bits():
    return assert_same_bits


@pytest.fixture(scope="session")
def weights():
    return draw(CONFIG)


@pytest.fixture(scope="session")
def model_dir(weights, tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "trained"
    folder.mkdir()
    write_checkpoint(folder / "checkpoint_7", weights, lambda count: None)
    write_model_files(folder, ModelFiles(CONFIG, tokenizer, {"inputs": 64, "targets": 48}))
    return folder
