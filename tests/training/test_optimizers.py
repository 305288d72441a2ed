"""Adafactor against its formulas, layer by layer; the sharding of its state against the parameters'."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import PartitionSpec as P

from medmt5.training import optimizers, schedules


def reference_adafactor(parameter, gradients, learning_rate, scale=True):
    """Shazeer & Stern 2018, algorithm 4, without momentum, for one matrix; T5X's constants."""
    row = column = full = 0.0
    for t, g in enumerate(gradients, start=1):
        decay = 1 - t**-0.8
        squares = g**2 + 1e-30
        if min(parameter.shape) >= 128:
            row = decay * row + (1 - decay) * squares.mean(1)
            column = decay * column + (1 - decay) * squares.mean(0)
            update = g / np.sqrt(np.outer(row, column) / row.mean())
        else:
            full = decay * full + (1 - decay) * squares
            update = g / np.sqrt(full)
        update = update / max(1.0, np.sqrt((update**2).mean()))
        step = learning_rate * (max(np.sqrt((parameter**2).mean()), 1e-3) if scale else 1.0)
        parameter = parameter - step * update
    return parameter


def run(params, gradients, optimizer):
    def step(params, state, g):
        updates, state = optimizer.update(g, state, params)
        return optax.apply_updates(params, updates), state

    state, step = optimizer.init(params), jax.jit(step)
    for g in gradients:
        params, state = step(params, state, g)
    return params


def random_tree(rng):
    return {
        "encoder": {"layers": {"wi": rng.normal(size=(2, 130, 140)), "scale": rng.normal(size=(2, 9))}},
        "decoder": {"layers": {"wi": rng.normal(size=(3, 140, 130)) * np.arange(1, 4)[:, None, None]}},
        "token_embedder": {"embedding": rng.normal(size=(200, 130))},
    }


def as_float32(tree):
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), tree)


def test_each_stacked_layer_steps_as_if_it_were_alone():
    rng = np.random.default_rng(0)
    params, gradients = random_tree(rng), [random_tree(rng) for _ in range(3)]
    for scale in (True, False):
        optimizer = optimizers.adafactor(schedules.constant(0.1), multiply_by_parameter_scale=scale)
        actual = run(as_float32(params), [as_float32(g) for g in gradients], optimizer)

        def check(path, value, scale=scale, actual=actual):
            pick = lambda tree: jax.tree_util.tree_leaves_with_path(tree)  # noqa: E731
            ours = dict(pick(actual))[path]
            theirs = [dict(pick(g))[path] for g in gradients]
            layers = range(len(value)) if any(getattr(k, "key", "") == "layers" for k in path) else [...]
            for i in layers:
                expected = reference_adafactor(value[i], [g[i] for g in theirs], 0.1, scale)
                np.testing.assert_allclose(ours[i], expected, rtol=2e-4, atol=2e-5)

        jax.tree_util.tree_map_with_path(check, params)


def test_factored_statistics_are_sharded_as_the_axes_they_keep():
    shapes = {
        "decoder": {"layers": {"wi": jax.ShapeDtypeStruct((4, 256, 512), jnp.float32)}},
        "encoder": {"layers": {"wo": jax.ShapeDtypeStruct((4, 512, 256), jnp.float32)}},
        "token_embedder": {"embedding": jax.ShapeDtypeStruct((1024, 256), jnp.float32)},
    }
    specs = {
        "decoder": {"layers": {"wi": P(None, "data", "model")}},
        "encoder": {"layers": {"wo": P(None, "model", "data")}},
        "token_embedder": {"embedding": P("model", "data")},
    }
    state = jax.eval_shape(optimizers.adafactor(0.1).init, shapes)
    found = {
        jax.tree_util.keystr(path, simple=True, separator="/").removeprefix("0/"): (leaf.shape, spec)
        for (path, leaf), spec in zip(
            jax.tree_util.tree_leaves_with_path(state),
            jax.tree.leaves(optimizers.state_specs(state, specs, shapes), is_leaf=lambda x: isinstance(x, P)),
            strict=True,
        )
    }
    assert found["v_row/decoder/layers/wi"] == ((4, 256), P(None, "data"))
    assert found["v_col/decoder/layers/wi"] == ((4, 512), P(None, "model"))
    assert found["v_row/encoder/layers/wo"] == ((4, 256), P(None, "data"))
    assert found["v_col/encoder/layers/wo"] == ((4, 512), P(None, "model"))
    assert found["v_row/token_embedder/embedding"] == ((256,), P("data"))
    assert found["v_col/token_embedder/embedding"] == ((1024,), P("model"))


def test_schedules_reach_their_values():
    constant = schedules.constant(0.1, warmup_steps=10)
    assert [round(float(constant(s)), 4) for s in (0, 4, 9, 500)] == [0.01, 0.05, 0.1, 0.1]
    rsqrt = schedules.rsqrt(1.0, warmup_steps=100)
    assert [round(float(rsqrt(s)), 4) for s in (0, 100, 400)] == [0.1, 0.1, 0.05]
    cosine = schedules.cosine(1.0, train_steps=110, warmup_steps=10)
    np.testing.assert_allclose([float(cosine(s)) for s in (0, 10, 60, 110)], [0.1, 1.0, 0.5, 0.0], atol=1e-6)
