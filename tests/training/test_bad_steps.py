"""A step that is not finite, or spikes, changes nothing; one that is good is the same step, bit for bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medmt5 import partitioning
from medmt5.model import mt5
from medmt5.partitioning import Partitioning
from medmt5.training import bad_steps, optimizers, schedules
from medmt5.training import step as steps

CONFIG = mt5.MT5Config(
    vocab_size=256, emb_dim=128, num_heads=4, num_encoder_layers=1, num_decoder_layers=1, head_dim=8, mlp_dim=128
)


def make_batch(seed, weight=1.0):
    rng = np.random.default_rng(seed)
    tokens = rng.integers(3, 250, (8, 7)).astype(np.int32)
    return {
        "encoder_input_tokens": np.where(np.arange(9) < 6, rng.integers(3, 250, (8, 9)), 0).astype(np.int32),
        "decoder_target_tokens": tokens,
        "decoder_input_tokens": np.pad(tokens, ((0, 0), (1, 0)))[:, :-1],
        "decoder_loss_weights": np.full(tokens.shape, weight, np.float32),
    }


def make(rules=None, **options):
    """Returns (step, its first state, put)."""
    rules = rules or Partitioning(num_devices=1)
    mesh, optimizer = rules.make_mesh(), optimizers.adafactor(schedules.constant(0.01))
    _, shardings = steps.state_shardings(CONFIG, optimizer, mesh, rules)
    step = steps.make_train_step(
        CONFIG, optimizer, steps.Objective(z_loss=1e-4), seed=0, mesh=mesh, shardings=shardings, **options
    )
    return step, steps.create_state(CONFIG, optimizer, 1, shardings), lambda b: partitioning.put_batch(b, mesh)


@pytest.fixture(scope="module")
def one_device():
    return make()


def compiled(made, options):
    step, state, put = made
    return step.lower(state, put(make_batch(0))).compile(options), state, put


def run(made, weights):
    """Returns (states, metrics) of a few steps, the batch of each with its weight."""
    step, state, put = made
    state = jax.tree.map(jnp.copy, state)  # it is donated, and belongs to all tests
    states, metrics = [jax.device_get(state)], []
    for i, weight in enumerate(weights):
        state, values = step(state, put(make_batch(i, weight)))
        states.append(jax.device_get(state))
        metrics.append({name: float(value) for name, value in values.items()})
    return states, metrics


def assert_same_bits(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


@pytest.mark.parametrize("rules", [None, Partitioning(num_model_partitions=2, shard_parameters_over_data=True)])
def test_a_step_that_is_not_finite_changes_nothing_but_the_step_number(one_device, rules):
    made = make(rules) if rules else one_device
    (_, before, after, last), metrics = run(made, [1, np.inf, 1])
    assert not np.isfinite(metrics[1]["total"])
    assert_same_bits((after.params, after.opt_state), (before.params, before.opt_state))
    assert int(after.step) == 2
    assert [m["skipped"] for m in metrics] == [0, 1, 0]
    assert [m["skipped_in_a_row"] for m in metrics] == [0, 1, 0]
    assert np.isfinite(metrics[2]["total"])
    moved = [np.abs(a - b).max() > 0 for a, b in zip(*map(jax.tree.leaves, (last.params, after.params)), strict=True)]
    assert all(moved)


def test_skipped_steps_in_a_row_are_counted_in_the_state(one_device):
    states, metrics = run(one_device, [np.inf, np.nan, np.inf, 1, np.inf])
    assert [m["skipped_in_a_row"] for m in metrics] == [1, 2, 3, 0, 1]
    assert [int(s.history.skipped_in_a_row) for s in states] == [0, 1, 2, 3, 0, 1]


def test_a_gradient_that_is_not_finite_is_enough(one_device):
    counts, _ = bad_steps.judge(bad_steps.start(), jnp.float32(2), jnp.float32(np.nan), None)
    assert not counts


def test_a_good_run_has_the_bits_of_one_that_cannot_skip(one_device, newer_generator, monkeypatch):
    # By the older one bits follow what is fused.
    expected, _ = run(compiled(one_device, newer_generator), [1, 1, 1])
    monkeypatch.setattr(bad_steps, "apply", lambda counts, update, old: update())
    states, _ = run(compiled(make(), newer_generator), [1, 1, 1])
    assert_same_bits(states, expected)


def test_tokens_are_counted_without_padding(one_device):
    _, metrics = run(one_device, [1])
    assert metrics[0]["input_tokens"] == 8 * 6
    assert metrics[0]["weight"] == 8 * 7


def judge_all(losses, factor):
    """Returns which of some losses count, and the history at the end."""
    history, counted = bad_steps.start(), []
    for loss in losses:
        counts, history = bad_steps.judge(history, jnp.float32(loss), jnp.float32(1), factor)
        counted.append(bool(counts))
    return counted, history


def test_a_spike_above_so_many_times_the_running_mean_is_skipped_and_does_not_move_the_mean():
    counted, history = judge_all([8.0, 4.0, 15.0, 17.0, 100.0, 4.0], 2.0)
    assert counted == [True, True, True, False, False, True]
    expected = 8.0
    for loss in (4.0, 15.0, 4.0):
        expected += (loss - expected) / bad_steps.RUNNING_STEPS
    assert float(history.running_loss) == pytest.approx(expected)
    assert int(history.skipped_in_a_row) == 0


def test_without_a_factor_any_finite_loss_counts():
    assert judge_all([1.0, 1e30, 1.0], None)[0] == [True] * 3
