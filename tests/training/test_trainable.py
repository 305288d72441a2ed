"""What is frozen stays as it was, bit for bit, costs no gradient and no state; what is trained is trained as ever."""

import dataclasses

import jax
import numpy as np
import optax
import pytest

from medmt5 import partitioning
from medmt5.errors import InputError
from medmt5.model import mt5
from medmt5.model.lora import LoRA
from medmt5.partitioning import Partitioning
from medmt5.training import optimizers, schedules, trainable
from medmt5.training import step as steps

CONFIG = mt5.MT5Config(
    vocab_size=64, emb_dim=32, num_heads=2, num_encoder_layers=2, num_decoder_layers=2, head_dim=16, mlp_dim=64
)
RULES = (("decoder/layers/mlp/.*", True), ("decoder/logits_dense/kernel", False), ("decoder/.*", True), (".*", False))


def make_batch(seed):
    rng = np.random.default_rng(seed)
    targets = rng.integers(3, 60, (8, 5)).astype(np.int32)
    return {
        "encoder_input_tokens": rng.integers(3, 60, (8, 7)).astype(np.int32),
        "decoder_target_tokens": targets,
        "decoder_input_tokens": np.pad(targets, ((0, 0), (1, 0)))[:, :-1],
        "decoder_loss_weights": np.ones((8, 5), np.float32),
    }


def names_of(tree):
    return ["/".join(key.key for key in path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]


def train(rules, mesh_rules=None, num_microbatches=1, config=CONFIG, optimizer=None):
    """Returns ([states after 0, 1, 2 steps] on the host, trained names)."""
    mesh_rules = mesh_rules or Partitioning(num_devices=1)
    mesh = mesh_rules.make_mesh()
    trained = trainable.trained_parameters(config, rules)
    optimizer = trainable.keep_state_of(optimizer or optimizers.adafactor(schedules.constant(0.01)), trained)
    _, shardings = steps.state_shardings(config, optimizer, mesh, mesh_rules)
    state = steps.create_state(config, optimizer, 1, shardings)
    step = steps.make_train_step(
        config, optimizer, steps.Objective(), seed=0, mesh=mesh, shardings=shardings,
        num_microbatches=num_microbatches, trained=trained,
    )  # fmt: skip
    states = [jax.device_get(state)]
    for i in range(2):
        state, _ = step(state, partitioning.put_batch(make_batch(i), mesh))
        states.append(jax.device_get(state))
    return states, trained


@pytest.fixture(scope="module")
def partly():
    return train(RULES)


def test_frozen_parameters_keep_their_bits_and_all_others_move(partly):
    (before, _, after), trained = partly
    assert {name.split("/")[0] for name in trained} == {"decoder"}
    assert "decoder/logits_dense/kernel" not in trained
    for name, a, b in zip(names_of(before.params), *map(jax.tree.leaves, (before.params, after.params)), strict=True):
        assert np.array_equal(a, b) == (name not in trained), name


def test_only_trained_parameters_have_optimizer_state(partly):
    (*_, after), trained = partly
    statistics = [s for s in jax.tree.leaves(after.opt_state, is_leaf=lambda x: hasattr(x, "v_row")) if hasattr(s, "v")]
    assert set(names_of(statistics[0].v)) == trained


def test_one_step_moves_the_trained_as_a_run_of_all_would(partly):
    """Adafactor's update of a parameter depends on its own gradient alone."""
    (_, some, _), trained = partly
    (_, whole, _), everything = train(None)
    assert everything is None
    for a, b in zip(*(jax.tree.leaves(trainable.split(s.params, trained)[0]) for s in (some, whole)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_a_mesh_and_microbatches_change_nothing(partly):
    (*_, expected), _ = partly
    (*_, state), _ = train(RULES, Partitioning(num_model_partitions=2, shard_parameters_over_data=True), 2)
    for name, a, b in zip(names_of(state.params), *map(jax.tree.leaves, (state.params, expected.params)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(b).max(), err_msg=name)


def test_adapters_are_trained_alike_on_a_mesh():
    config = dataclasses.replace(CONFIG, lora=LoRA(rank=4))
    mesh = Partitioning(num_model_partitions=2, shard_parameters_over_data=True)
    # Linear in the gradients: Adafactor divides each of an adapter's by its own size, and shows the order of sums where
    # one is all rounding.
    optimizer = optax.sgd(0.1)
    (before, _, expected), trained = train(None, config=config, optimizer=optimizer)
    (*_, state), _ = train(None, mesh, config=config, optimizer=optimizer)
    trees = (before.params, state.params, expected.params)
    for name, start, a, b in zip(names_of(state.params), *map(jax.tree.leaves, trees), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(b).max(), err_msg=name)
        assert np.array_equal(start, b) == (name not in trained), name


def test_split_and_join_are_inverse_and_all_trained_is_the_tree_itself():
    tree = {"a": {"b": 1, "c": 2}, "d": 3}
    trained, frozen = trainable.split(tree, frozenset({"a/b"}))
    assert (trained, frozen) == ({"a": {"b": 1}}, {"a": {"c": 2}, "d": 3})
    assert trainable.join(trained, frozen) == tree
    assert trainable.split(tree, None)[0] is tree
    assert trainable.join(tree, {}) is tree


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ((("encoder/.*", True),), r"no rule matches decoder/w, token_embedder/embedding; add a rule"),
        (((".*", True), ("encoder/.*", False)), r"decide about no parameter: 'encoder/\.\*'; they match none, or"),
        ((("encodr/.*", False), (".*", True)), r"decide about no parameter: 'encodr/\.\*'"),
        ((("encoder", False), (".*", True)), r"Patterns match whole paths, such as"),
        (((".*", False),), "freezes every parameter"),
        ((("(", True),), r"a rule of TRAINABLE is .*, not \('\(', True\)"),
        (((".*", "no"),), r"a rule of TRAINABLE is .*, not \('\.\*', 'no'\)"),
        ((".*",), r"a rule of TRAINABLE is"),
    ],
)
def test_a_wrong_rule_is_named(rules, message):
    params = {"encoder": {"w": 0}, "decoder": {"w": 0}, "token_embedder": {"embedding": 0}}
    with pytest.raises(InputError, match=message):
        trainable.trained_names(params, rules)


def test_with_adapters_they_alone_are_trained_and_none_may_be_frozen():
    config = dataclasses.replace(CONFIG, lora=LoRA(rank=2, targets=("query", "wo")))
    trained = trainable.trained_parameters(config, None)
    assert len(trained) == 2 * (3 + 2)
    assert {name.rpartition("/")[2] for name in trained} == {"lora_a", "lora_b"}
    with pytest.raises(InputError, match="TRAINABLE freezes adapters, which do nothing then: encoder/layers/attention"):
        trainable.trained_parameters(config, (("decoder/.*", True), (".*", False)))
