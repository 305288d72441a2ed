"""The train step: a pure function (state, batch) -> (state, metrics), and the state it carries.

Loss, gradients and counts are summed over microbatches before anything is divided, so microbatches and sharding change
nothing but rounding. Randomness is `fold_in(key(seed), step)`: a step does not know whether the run was ever
interrupted.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax import struct
from jax.sharding import AbstractMesh, Mesh, NamedSharding

from medmt5 import partitioning
from medmt5.errors import InputError
from medmt5.model import mt5
from medmt5.training import bad_steps, losses, optimizers, trainable

State = Any
Batch = dict[str, jax.Array]


class TrainState(struct.PyTreeNode):
    """step: int32 scalar; params: float32 tree as `mt5.init_params` (unboxed); opt_state: optax's; history: which
    steps counted.
    """

    step: Any
    params: Any
    opt_state: Any
    history: bad_steps.History


@dataclasses.dataclass(frozen=True)
class Objective:
    """What is minimised: mean cross-entropy a target token, plus z_loss * logsumexp^2.

    `loss_normalizing_factor` divides the summed loss: None = the batch's number of weighted target tokens (T5X's
    NUM_REAL_TARGET_TOKENS), or a number.
    """

    z_loss: float = 0.0
    label_smoothing: float = 0.0
    loss_normalizing_factor: float | None = None


def state_shapes(config: mt5.MT5Config, optimizer: optax.GradientTransformation) -> TrainState:
    """Returns the whole state as ShapeDtypeStructs."""
    return jax.eval_shape(lambda params: _start(params, optimizer), nn.unbox(mt5.param_shapes(config)))


def _start(params: Any, optimizer: optax.GradientTransformation) -> TrainState:
    return TrainState(jnp.int32(0), params, optimizer.init(params), bad_steps.start())


def state_shardings(
    config: mt5.MT5Config,
    optimizer: optax.GradientTransformation,
    mesh: Mesh | AbstractMesh,
    rules: partitioning.Partitioning,
) -> tuple[TrainState, TrainState]:
    """Returns (ShapeDtypeStructs, NamedShardings) of the whole state, from shapes alone: nothing is allocated."""
    shapes = state_shapes(config, optimizer)
    param_shardings = partitioning.parameter_shardings(mt5.param_shapes(config), mesh, rules)
    specs = optimizers.state_specs(
        shapes.opt_state, jax.tree.map(lambda s: s.spec, param_shardings, is_leaf=_is_sharding), shapes.params
    )
    opt_shardings = jax.tree.map(
        lambda spec: NamedSharding(mesh, spec), specs, is_leaf=lambda x: isinstance(x, jax.sharding.PartitionSpec)
    )
    everywhere = partitioning.replicated(mesh)
    history = jax.tree.map(lambda _: everywhere, shapes.history)
    return shapes, TrainState(everywhere, param_shardings, opt_shardings, history)


def create_state(
    config: mt5.MT5Config, optimizer: optax.GradientTransformation, seed: int, shardings: TrainState
) -> TrainState:
    """Draws a fresh state directly into its shards; the same values on every mesh."""

    def create():
        return _start(nn.unbox(mt5.init_params(config, jax.random.key(seed))), optimizer)

    return jax.jit(create, out_shardings=shardings)()


def with_params(state: TrainState, names: frozenset[str] | None) -> TrainState:
    """Returns the state, its shapes or its shardings, with the parameters of these paths alone; None = all."""
    return state.replace(params=trainable.split(state.params, names)[0])


def make_train_step(
    config: mt5.MT5Config,
    optimizer: optax.GradientTransformation,
    objective: Objective,
    *,
    seed: int,
    mesh: Mesh,
    shardings: TrainState,
    num_microbatches: int = 1,
    loss_spike_factor: float | None = None,
    trained: frozenset[str] | None = None,
) -> Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]]:
    """Returns the jitted step. The state is donated; metrics are float32 scalars: the sums of `losses.Loss`,
    `input_tokens` (without padding), `grad_norm`, `skipped` (0 or 1) and `skipped_in_a_row`.

    A step whose loss or gradient norm is not finite, or whose loss is above `loss_spike_factor` times the running mean,
    changes nothing but the step number: see `bad_steps`. `trained`, by `trainable.trained_names`, has gradients and is
    updated, and the state is made with `trainable.keep_state_of(optimizer, trained)`; None = all parameters.
    """
    model = mt5.MT5(config)
    has_kernel_gradient = trained is None or mt5.OUTPUT_KERNEL in trained

    def loss_fn(params, frozen, batch, rng, normalizer):
        params = trainable.join(params, frozen)
        rngs = {"dropout": rng} if config.dropout_rate else None
        hidden: Any = model.apply({"params": params}, batch, deterministic=rngs is None, rngs=rngs)
        loss = batch_loss(hidden, params, batch, objective, mesh, normalizer, has_kernel_gradient)
        return loss.objective, loss

    def train_step(state: TrainState, batch: Batch):
        rng = jax.random.fold_in(jax.random.key(seed), state.step)
        normalizer: Any = objective.loss_normalizing_factor
        if normalizer is None:
            normalizer = jnp.maximum(jnp.sum(batch["decoder_loss_weights"]), 1.0)
        own, frozen = trainable.split(state.params, trained)
        gradient = jax.grad(loss_fn, has_aux=True)
        if num_microbatches == 1:
            gradients, loss = gradient(own, frozen, batch, rng, normalizer)
        else:
            gradients, loss = _accumulate(gradient, own, frozen, batch, rng, normalizer, num_microbatches)

        def update():
            updates, opt_state = optimizer.update(gradients, state.opt_state, own)
            return optax.apply_updates(own, updates), opt_state

        grad_norm = optimizers.global_norm(gradients)
        mean = loss.total / jnp.maximum(loss.weight, 1.0)
        counts, history = bad_steps.judge(state.history, mean, grad_norm, loss_spike_factor)
        own, opt_state = bad_steps.apply(counts, update, (own, state.opt_state))
        metrics = {
            **loss._asdict(),
            "input_tokens": jnp.sum(batch["encoder_input_tokens"] != 0, dtype=jnp.float32),
            "grad_norm": grad_norm,
            "skipped": 1 - counts.astype(jnp.float32),
            "skipped_in_a_row": history.skipped_in_a_row.astype(jnp.float32),
        }
        return TrainState(state.step + 1, trainable.join(own, frozen), opt_state, history), metrics

    data, everywhere = partitioning.batch_sharding(mesh), partitioning.replicated(mesh)
    return partitioning.in_context(
        jax.jit(train_step, in_shardings=(shardings, data), out_shardings=(shardings, everywhere), donate_argnums=0),
        mesh,
    )


def make_eval_step(
    config: mt5.MT5Config, objective: Objective, *, mesh: Mesh, shardings: TrainState
) -> Callable[[Any, Batch], losses.Loss]:
    """Returns the jitted (params, batch) -> `losses.Loss`, teacher forced, without dropout."""
    model = mt5.MT5(config)

    def eval_step(params, batch):
        hidden: Any = model.apply({"params": params}, batch)
        return batch_loss(hidden, params, batch, objective, mesh)

    data, everywhere = partitioning.batch_sharding(mesh), partitioning.replicated(mesh)
    return partitioning.in_context(
        jax.jit(eval_step, in_shardings=(shardings.params, data), out_shardings=everywhere), mesh
    )


def batch_loss(
    hidden: jax.Array,
    params: Any,
    batch: Batch,
    objective: Objective,
    mesh: Mesh,
    normalizer: jax.Array | float = 1.0,
    has_kernel_gradient: bool = True,
) -> losses.Loss:
    """Returns the loss of the decoder's last hidden states [batch, targets, embed]."""
    return losses.vocabulary_loss(
        hidden,
        mt5.output_kernel(params),
        batch["decoder_target_tokens"],
        batch["decoder_loss_weights"],
        normalizer=normalizer,
        batch_shards=mesh.shape["data"],
        vocab_shards=mesh.shape["model"],
        z_loss=objective.z_loss,
        label_smoothing=objective.label_smoothing,
        has_kernel_gradient=has_kernel_gradient,
    )


def check_microbatches(batch_size: int, data_shards: int, num_microbatches: int) -> None:
    """Raises InputError unless every data shard's rows split into `num_microbatches`."""
    if batch_size % (data_shards * num_microbatches):
        raise InputError(
            f"BATCH_SIZE = {batch_size} is not a multiple of {data_shards} data shards x {num_microbatches} "
            "microbatches; "
            f"set it to a multiple of {data_shards * num_microbatches}"
        )


def _accumulate(gradient, params, frozen, batch, rng, normalizer, num_microbatches):
    # Rows are split with the microbatch index inside, so that each device keeps its own rows.
    split = jax.tree.map(
        lambda x: jnp.moveaxis(x.reshape(x.shape[0] // num_microbatches, num_microbatches, *x.shape[1:]), 1, 0), batch
    )

    def add(sums, microbatch):
        index, rows = microbatch
        new = gradient(params, frozen, rows, jax.random.fold_in(rng, index), normalizer)
        return jax.tree.map(jnp.add, sums, new), None

    zero_loss = losses.Loss(*[jnp.float32(0)] * len(losses.Loss._fields))
    zeros = (jax.tree.map(jnp.zeros_like, params), zero_loss)
    return jax.lax.scan(add, zeros, (jnp.arange(num_microbatches), split))[0]


def _is_sharding(x: Any) -> bool:
    return isinstance(x, NamedSharding)
