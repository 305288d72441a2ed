"""A step is the same step on every mesh, in any number of microbatches, and at any size it can be traced. Needs the 8
virtual devices of conftest.py.
"""

import dataclasses

import jax
import numpy as np
import optax
import pytest

from medmt5 import partitioning
from medmt5.batch import shapes
from medmt5.errors import InputError
from medmt5.model import mt5
from medmt5.partitioning import Partitioning
from medmt5.training import optimizers, schedules
from medmt5.training import step as steps

pytestmark = pytest.mark.slow
CONFIG = mt5.MT5Config(
    vocab_size=256, emb_dim=128, num_heads=4, num_encoder_layers=2, num_decoder_layers=3, head_dim=32, mlp_dim=256
)
MESHES = {
    "data": Partitioning(),
    "tensor": Partitioning(num_model_partitions=4),
    "fsdp": Partitioning(shard_parameters_over_data=True),
    "fsdp_tensor": Partitioning(num_model_partitions=2, shard_parameters_over_data=True),
}


def make_batch(seed, rows=16, inputs=9, targets=7):
    rng = np.random.default_rng(seed)
    tokens = rng.integers(3, 250, (rows, targets)).astype(np.int32)
    tokens[: rows // 2, 4:] = 0  # rows differ in weight, so a mean of means would show
    return {
        "encoder_input_tokens": rng.integers(3, 250, (rows, inputs)).astype(np.int32),
        "decoder_target_tokens": tokens,
        "decoder_input_tokens": np.pad(tokens, ((0, 0), (1, 0)))[:, :-1],
        "decoder_loss_weights": (tokens > 0).astype(np.float32),
    }


def remember_gradients():
    """Keeps the last gradients in the optimizer state, so that comparing states compares each of them."""
    return optax.GradientTransformation(
        lambda params: jax.tree.map(jax.numpy.zeros_like, params), lambda gradients, _, params=None: (gradients,) * 2
    )


def train(rules, num_microbatches=1, num_steps=3, optimizer=None, config=CONFIG, seed=0):
    """Returns (losses, gradient norms, final state, last gradients included) after a few steps, in which the state
    must keep its shardings.
    """
    mesh = rules.make_mesh()
    optimizer = optax.chain(remember_gradients(), optimizer or optimizers.adafactor(schedules.constant(0.01)))
    _, shardings = steps.state_shardings(config, optimizer, mesh, rules)
    state = steps.create_state(config, optimizer, 1, shardings)
    step = steps.make_train_step(
        config,
        optimizer,
        steps.Objective(z_loss=1e-4),
        seed=seed,
        mesh=mesh,
        shardings=shardings,
        num_microbatches=num_microbatches,
    )
    losses, norms = [], []
    for i in range(num_steps):
        state, metrics = step(state, partitioning.put_batch(make_batch(i), mesh))
        losses.append(float(metrics["total"] / metrics["weight"]))
        norms.append(float(metrics["grad_norm"]))
    jax.tree.map(
        lambda x, s: x.sharding.is_equivalent_to(s, x.ndim) or pytest.fail(f"{x.sharding} != {s}"), state, shardings
    )
    return losses, norms, jax.device_get(state)


@pytest.fixture(scope="module")
def on_one_device():
    return train(Partitioning(num_devices=1))


def assert_same(actual, expected):
    for a, b in zip(actual[:2], expected[:2], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(actual[2]), jax.tree.leaves(expected[2]), strict=True):
        scale = np.abs(b).max() + 1e-9
        np.testing.assert_allclose(a / scale, b / scale, atol=1e-5, err_msg=jax.tree_util.keystr(path))


@pytest.mark.parametrize("name", MESHES)
def test_sharded_equals_unsharded_in_loss_gradient_parameters_and_optimizer_state(on_one_device, name):
    assert_same(train(MESHES[name]), on_one_device)


def test_microbatches_equal_the_full_batch(on_one_device):
    assert_same(train(Partitioning(num_devices=2), num_microbatches=4), on_one_device)


def test_both_mesh_axes_cut_a_kernel():
    mesh, rules = MESHES["fsdp_tensor"].make_mesh(), MESHES["fsdp_tensor"]
    shapes, shardings = steps.state_shardings(CONFIG, optax.sgd(0.1), mesh, rules)
    kernel, sharding = (tree.params["decoder"]["layers"]["mlp"]["wi_0"]["kernel"] for tree in (shapes, shardings))
    assert sharding.shard_shape(kernel.shape) == (3, 128 // 4, 256 // 2)


def test_the_same_seed_gives_the_same_bits_and_dropout_follows_the_seed():
    config = dataclasses.replace(CONFIG, dropout_rate=0.1)
    runs = [  # by plain gradient descent, which compiles faster
        train(Partitioning(num_devices=1), config=config, optimizer=optax.sgd(0.1), seed=seed)[0] for seed in (5, 5, 6)
    ]
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


def test_adamw_on_every_axis_makes_of_a_gradient_what_it_makes_on_one_device():
    adamw = optimizers.adamw(schedules.constant(0.01))
    before, after = (train(MESHES["fsdp_tensor"], optimizer=adamw, num_steps=n)[2] for n in (0, 1))
    gradient, moments = after.opt_state
    updates, expected = jax.jit(adamw.update)(gradient, before.opt_state[1], before.params)
    expected_params = optax.apply_updates(before.params, updates)
    assert_same(([], [], (after.params, moments)), ([], [], (expected_params, expected)))


def test_what_does_not_divide_is_named_with_the_fix():
    mesh = MESHES["data"].make_mesh()
    with pytest.raises(InputError, match="BATCH_SIZE = 12 is not a multiple of the 8 data shards"):
        partitioning.check_divisible(mesh, batch_size=12, dimensions={})
    with pytest.raises(InputError, match="num_heads = 6 of the model does not divide into NUM_MODEL_PARTITIONS = 4"):
        partitioning.check_divisible(MESHES["tensor"].make_mesh(), batch_size=8, dimensions={"num_heads": 6})
    with pytest.raises(InputError, match="8 devices cannot be split into groups of NUM_MODEL_PARTITIONS = 3"):
        Partitioning(num_model_partitions=3).make_mesh()
    with pytest.raises(InputError, match="9 devices asked for, 8"):
        Partitioning(num_devices=9).make_mesh()
    with pytest.raises(InputError, match="8 data shards x 3 microbatches"):
        steps.check_microbatches(16, 8, 3)


def test_batches_have_the_documented_shapes():
    batch = make_batch(0)
    for name, (shape, dtype) in shapes(16, 9, 7).items():
        assert batch[name].shape == shape
        assert batch[name].dtype == dtype
