"""Memory of one train step on one device, predicted from shapes: nothing is allocated or compiled.

    parameters + optimizer state     exact: the shards that the shardings say (float32)
    gradients                        float32, like the parameters; twice with microbatches, the sum and the newest
    gathered (FSDP only)             float32 parameters that are whole while they are used: the vocabulary's two matrices
                                     with the gradient of one, and one layer with its gradient
    saved                            what the backward pass keeps of a microbatch's forward pass: counted from the
                                     traced program itself, so it follows the model and its remat policy
    working                          one layer's own values, recomputed or differentiated: what "none" would save of it,
                                     twice (values and their gradients)
    loss                             logits of one chunk of the vocabulary loss, and their gradient

`saved` and `working` are traced for a model of one device's share: its rows of a microbatch, its heads, its part of the
MLP; tensor-parallel devices each hold the whole `embed` axis, as the compute rules say. The sum leaves out what XLA
frees early and what it copies; docs/planning.md holds it against XLA's own figures.
"""

from __future__ import annotations

import dataclasses
from functools import cache
from typing import Any

import jax
from flax import linen as nn

from medmt5 import partitioning
from medmt5.batch import shapes as batch_shapes
from medmt5.model import mt5
from medmt5.partitioning import Partitioning
from medmt5.training.step import TrainState

LOSS_CHUNK_BYTES = 256 * 2**20  # what `losses` allows itself at most


@dataclasses.dataclass(frozen=True)
class StepMemory:
    """Bytes on one device; the module's docstring explains each."""

    parameters: int
    optimizer_state: int
    gradients: int
    gathered: int
    saved: int
    working: int
    loss: int

    @property
    def total(self) -> int:
        return sum(dataclasses.astuple(self))


def predict(
    config: mt5.MT5Config,
    shapes: TrainState,
    shardings: TrainState,
    rules: Partitioning,
    *,
    batch_size: int,
    inputs: int,
    targets: int,
    num_microbatches: int = 1,
) -> StepMemory:
    """Returns the memory of a step of `batch_size` examples, from `steps.state_shardings`' two results.

    The shardings may be of an abstract mesh.
    """
    data, model = (shardings.step.mesh.shape[axis] for axis in ("data", "model"))
    rows = batch_size // data // num_microbatches
    share = dataclasses.replace(
        config,
        num_heads=config.num_heads // model,
        mlp_dim=config.mlp_dim // model,
        vocab_size=config.vocab_size // model,
    )
    lengths = (rows, inputs, targets)
    encoder, decoder = (_layer_bytes(share, stack, *lengths) for stack in ("encoder", "decoder"))
    parameters = shard_bytes(shapes.params, shardings.params)
    return StepMemory(
        parameters=parameters,
        optimizer_state=shard_bytes(shapes.opt_state, shardings.opt_state),
        gradients=parameters * (1 if num_microbatches == 1 else 2),
        gathered=_gathered_bytes(share, shapes.params) if rules.shard_parameters_over_data and data > 1 else 0,
        saved=saved_bytes(share, *lengths),
        working=2 * max(encoder, decoder),
        loss=min(LOSS_CHUNK_BYTES, 2 * 4 * rows * targets * share.vocab_size),
    )


def shard_bytes(shapes: Any, shardings: Any) -> int:
    """Returns the bytes on one device of a tree of ShapeDtypeStructs under its NamedShardings."""
    leaves = zip(jax.tree.leaves(shapes), jax.tree.leaves(shardings), strict=True)
    return sum(_bytes(s.shard_shape(x.shape), x.dtype) for x, s in leaves)


@cache
def saved_bytes(config: mt5.MT5Config, rows: int, inputs: int, targets: int) -> int:
    """Returns the bytes that the backward pass of the model keeps, parameters and batch not counted."""
    params = jax.eval_shape(lambda: nn.unbox(mt5.init_params(config, jax.random.key(0))))
    batch = {
        name: jax.ShapeDtypeStruct(shape, dtype) for name, (shape, dtype) in batch_shapes(rows, inputs, targets).items()
    }

    def backward(params, batch):
        rngs = {"dropout": jax.random.key(0)} if config.dropout_rate else None
        model = mt5.MT5(config)
        return jax.vjp(lambda p: model.apply({"params": p}, batch, deterministic=rngs is None, rngs=rngs), params)[1]

    jaxpr = jax.make_jaxpr(backward)(params, batch).jaxpr
    given = {id(v) for v in jaxpr.invars}
    kept = {id(v): v.aval for v in jaxpr.outvars if id(v) not in given}  # a value kept twice is kept once
    return sum(_bytes(x.shape, x.dtype) for x in kept.values())


def _layer_bytes(config: mt5.MT5Config, stack: str, *lengths: int) -> int:
    """What one more layer of a stack would save without remat."""
    plain = dataclasses.replace(
        config, remat_policy="none", scan_layers=True, num_encoder_layers=1, num_decoder_layers=1
    )
    deeper = dataclasses.replace(plain, **{f"num_{stack}_layers": 2})
    return saved_bytes(deeper, *lengths) - saved_bytes(plain, *lengths)


def _gathered_bytes(share: mt5.MT5Config, params: Any) -> int:
    matrix = 4 * share.vocab_size * share.emb_dim
    layer = 4 * share.emb_dim * (8 * share.num_heads * share.head_dim + 3 * share.mlp_dim)  # a decoder's
    return 3 * matrix + 2 * layer


def _bytes(shape: tuple[int, ...], dtype: Any) -> int:
    size = 1
    for n in shape:
        size *= n
    itemsize = getattr(dtype, "itemsize", 4)  # a random key's type has its own idea of size
    return size * itemsize
