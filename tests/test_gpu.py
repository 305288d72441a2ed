"""What needs a GPU: its results are a CPU's. Skipped without one; all else runs on CPUs alone.

python -m pytest tests/test_gpu.py
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from medmt5 import partitioning
from medmt5.batch import shift_right
from medmt5.decoding.constrained import make_label_decoder
from medmt5.decoding.label_automaton import build_tables
from medmt5.model import attention, mt5
from medmt5.partitioning import Partitioning
from medmt5.training import optimizers, schedules
from medmt5.training import step as steps
from medmt5.training.losses import vocabulary_loss

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        jax.default_backend() != "gpu", reason="JAX finds no GPU; where there is one: pip install 'jax[cuda13]'"
    ),
]
CONFIG = mt5.MT5Config(
    vocab_size=512, emb_dim=128, num_heads=4, num_encoder_layers=2, num_decoder_layers=2, head_dim=32, mlp_dim=256
)
RULES = Partitioning(num_devices=1)


@pytest.fixture(autouse=True)
def exact_products():
    """Float32 in full, where JAX would take 10 bits of it; and what XLA makes for users."""
    jax.config.update("jax_disable_most_optimizations", False)
    with jax.default_matmul_precision("highest"):
        yield
    jax.config.update("jax_disable_most_optimizations", True)


def mesh_of(platform):
    return Mesh(np.array(jax.devices(platform)[:1]).reshape(1, 1), ("data", "model"))


def make_batch(seed, rows=8, inputs=33, targets=17):
    rng = np.random.default_rng(seed)
    encoder, decoder = (rng.integers(3, 500, (rows, n), dtype=np.int32) for n in (inputs, targets))
    encoder[::2, 20:] = 0
    decoder[::2, 9:] = 0
    return {
        "encoder_input_tokens": encoder,
        "decoder_input_tokens": shift_right(decoder),
        "decoder_target_tokens": decoder,
        "decoder_loss_weights": (decoder > 0).astype(np.float32),
    }


def train(platform, config=CONFIG, num_steps=3):
    mesh = mesh_of(platform)
    optimizer = optimizers.adafactor(schedules.constant(0.01))
    _, shardings = steps.state_shardings(config, optimizer, mesh, RULES)
    state = steps.create_state(config, optimizer, 1, shardings)
    objective = steps.Objective(z_loss=1e-4)
    step = steps.make_train_step(config, optimizer, objective, seed=0, mesh=mesh, shardings=shardings)
    losses = []
    for i in range(num_steps):
        state, metrics = step(state, partitioning.put_batch(make_batch(i), mesh))
        losses.append(float(metrics["total"] / metrics["weight"]))
    return losses, jax.device_get(state.params)


def test_cudnn_s_attention_is_right():
    assert attention.cudnn_is_right()
    assert attention.choose(jnp.bfloat16) == "cudnn"


@pytest.mark.parametrize("dropout_rate", [0.0, 0.1])
def test_training_is_a_cpu_s(dropout_rate):
    config = dataclasses.replace(CONFIG, dropout_rate=dropout_rate)
    losses, params = train("gpu", config)
    expected_losses, expected = train("cpu", config)
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-4), params, expected)


def test_training_in_bfloat16_with_cudnn_is_near_plain_attention_and_the_same_twice():
    config = dataclasses.replace(CONFIG, dtype="bfloat16")
    losses, params = train("gpu", config)
    again, same = train("gpu", config)
    assert losses == again
    jax.tree.map(np.testing.assert_array_equal, params, same)
    plain, _ = train("gpu", dataclasses.replace(config, attention="plain"))
    np.testing.assert_allclose(losses, plain, rtol=5e-3)


def test_what_the_backward_pass_computes_again_changes_nothing():
    config = dataclasses.replace(CONFIG, dtype="bfloat16")
    expected, _ = train("gpu", config)
    for remat_policy, scan_layers in (("minimal", True), ("minimal", False), ("full", True)):
        changed = dataclasses.replace(config, remat_policy=remat_policy, scan_layers=scan_layers)
        np.testing.assert_allclose(train("gpu", changed)[0], expected, rtol=2e-3)


def test_the_vocabulary_loss_is_the_plain_one():
    keys = jax.random.split(jax.random.key(0), 3)
    hidden = jax.random.normal(keys[0], (4, 100, 256), jnp.bfloat16)
    kernel = jax.random.normal(keys[1], (256, 32_128), jnp.float32) / 16
    targets = jax.random.randint(keys[2], (4, 100), 0, 32_128)
    weights = jnp.ones((4, 100))

    def ours(hidden, kernel):
        return vocabulary_loss(hidden, kernel, targets, weights, normalizer=400.0).objective

    def plain(hidden, kernel):
        logits = jnp.einsum("ble,ev->blv", hidden, kernel.astype(hidden.dtype), preferred_element_type=jnp.float32)
        at_target = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
        return jnp.mean(jax.nn.logsumexp(logits, axis=-1) - at_target)

    (loss, gradients), (expected, right) = (
        jax.jit(jax.value_and_grad(f, (0, 1)))(hidden, kernel) for f in (ours, plain)
    )
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    for a, b in zip(gradients, right, strict=True):
        a, b = (x.astype(jnp.float32).ravel() for x in (a, b))
        assert jnp.vdot(a, b) / jnp.linalg.norm(a) / jnp.linalg.norm(b) > 0.99999


@pytest.mark.parametrize("beam_size", [1, 4])
@pytest.mark.parametrize("scoring", ["local", "full"])
def test_labels_are_a_cpu_s(beam_size, scoring):
    rng = np.random.default_rng(0)
    words = [[rng.integers(10, 500, rng.integers(1, 4)).tolist() for _ in range(n)] for n in (3, 9, 12, 0)]
    tables = build_tables(words, [[3], [4]], [[5], [6]], np.ones((4, 2), bool), 48)
    inputs = np.zeros((4, 49), np.int32)
    for row, sentence in enumerate(words):
        ids = [i for word in sentence for i in word] + [1]
        inputs[row, : len(ids)] = ids
    boxed = mt5.init_params(CONFIG, jax.random.key(0))
    params = jax.device_get(jax.tree.map(lambda box: box.value, boxed, is_leaf=lambda x: hasattr(x, "names")))

    def label(platform):
        mesh = mesh_of(platform)
        decode = make_label_decoder(CONFIG, mesh, beam_size=beam_size, scoring=scoring)
        placed = jax.device_put((params, inputs), jax.NamedSharding(mesh, jax.P()))
        return jax.device_get(decode(*placed, tables, 96))

    found, expected = label("gpu"), label("cpu")
    np.testing.assert_array_equal(found.choices, expected.choices)
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-4)
