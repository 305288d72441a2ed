"""Memory of one train step on one device, predicted from shapes: nothing is allocated or compiled.

    parameters        exact: the shards that the shardings say, float32
    optimizer_state   exact, likewise; of trained parameters alone
    saved             what the backward pass keeps of a microbatch's forward pass: counted from the traced program
                      itself, so it follows the model and its remat policy
  and the largest of three moments that follow each other:
    loss              the output matrix's gradient, the logits of a chunk, and with FSDP the whole output matrix
    layers            the gradients, and one layer as the backward pass works on it: what "none" saves of a layer, a
                      quarter more where it is computed again; with FSDP the layer's whole parameters and gradients
    embedding         the gradients, and with FSDP the whole gradient of the embedding

Gradients are float32 and sharded like the parameters; with microbatches there is the sum and the newest.
Frozen parameters have none.
`saved` and a layer are traced for a model of one device's share: its rows of a microbatch, its heads, its part of the
MLP; tensor-parallel devices each hold the whole `embed` axis, as the compute rules say. The sum leaves out what XLA
frees early and what it copies; docs/planning.md holds it against XLA's own figures.
"""

from __future__ import annotations

import dataclasses
from functools import cache
from typing import Any

import jax
from flax import linen as nn

from medmt5.batch import shapes as batch_shapes
from medmt5.model import mt5
from medmt5.partitioning import Partitioning
from medmt5.training import trainable
from medmt5.training.step import TrainState

LOSS_CHUNK_BYTES = 256 * 2**20  # what `losses` allows itself at most


@dataclasses.dataclass(frozen=True)
class StepMemory:
    """Bytes on one device; the module's docstring explains each."""

    parameters: int
    optimizer_state: int
    saved: int
    loss: int
    layers: int
    embedding: int

    @property
    def total(self) -> int:
        return self.parameters + self.optimizer_state + self.saved + max(self.loss, self.layers, self.embedding)


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
    packed: bool = False,
    trained: frozenset[str] | None = None,
) -> StepMemory:
    """Returns the memory of a step of `batch_size` rows, from `steps.state_shardings`' two results.

    The shardings may be of an abstract mesh. `trained`: paths of the trained parameters; None = all.
    """
    data, model = (shardings.step.mesh.shape[axis] for axis in ("data", "model"))
    rows = batch_size // data // num_microbatches
    share = dataclasses.replace(
        config,
        num_heads=config.num_heads // model,
        mlp_dim=config.mlp_dim // model,
        vocab_size=config.vocab_size // model,
    )
    shape = (rows, inputs, targets, packed)
    parameters = shard_bytes(shapes.params, shardings.params)
    own = (trainable.split(tree, trained)[0] for tree in (shapes.params, shardings.params))
    gradients = shard_bytes(*own)
    summed = gradients if num_microbatches > 1 else 0
    layer = max(_layer_bytes(share, stack, *shape, trained) for stack in ("encoder", "decoder"))
    if config.remat_policy != "none":
        layer += layer // 4
    matrix = 4 * share.vocab_size * share.emb_dim  # of the vocabulary's two
    chunk = min(LOSS_CHUNK_BYTES, 4 * rows * targets * share.vocab_size)
    whole = rules.shard_parameters_over_data and data > 1
    kernel, embedding = (
        matrix * (trained is None or name in trained) for name in (mt5.OUTPUT_KERNEL, "token_embedder/embedding")
    )
    layer_copies = 1 + (trained is None or any("/layers/" in name and name.endswith("/kernel") for name in trained))
    return StepMemory(
        parameters=parameters,
        optimizer_state=shard_bytes(shapes.opt_state, shardings.opt_state),
        saved=saved_bytes(share, *shape, trained),
        loss=summed + kernel + chunk + whole * matrix,
        layers=summed + gradients + layer + whole * layer_copies * _layer_parameter_bytes(share),
        embedding=summed + gradients + whole * embedding,
    )


def shard_bytes(shapes: Any, shardings: Any) -> int:
    """Returns the bytes on one device of a tree of ShapeDtypeStructs under its NamedShardings."""
    leaves = zip(jax.tree.leaves(shapes), jax.tree.leaves(shardings), strict=True)
    return sum(_bytes(s.shard_shape(x.shape), x.dtype) for x, s in leaves)


@cache
def saved_bytes(
    config: mt5.MT5Config,
    rows: int,
    inputs: int,
    targets: int,
    packed: bool = False,
    trained: frozenset[str] | None = None,
) -> int:
    """Returns the bytes that the backward pass of the model keeps, parameters and batch not counted."""
    params = nn.unbox(mt5.param_shapes(config))
    batch = {
        name: jax.ShapeDtypeStruct(shape, dtype)
        for name, (shape, dtype) in batch_shapes(rows, inputs, targets, packed).items()
    }

    def backward(params, batch):
        rngs = {"dropout": jax.random.key(0)} if config.dropout_rate else None
        model = mt5.MT5(config)
        own, frozen = trainable.split(params, trained)

        def apply(own):
            variables = {"params": trainable.join(own, frozen)}
            return model.apply(variables, batch, deterministic=rngs is None, rngs=rngs)

        return jax.vjp(apply, own)[1]

    jaxpr = jax.make_jaxpr(backward)(params, batch).jaxpr
    given = {id(v) for v in jaxpr.invars}
    kept = {id(v): v.aval for v in jaxpr.outvars if id(v) not in given}  # a value kept twice is kept once
    return sum(_bytes(x.shape, x.dtype) for x in kept.values())


def _layer_bytes(config: mt5.MT5Config, stack: str, *arguments: Any) -> int:
    """What one more layer of a stack would save without remat."""
    plain = dataclasses.replace(
        config, remat_policy="none", scan_layers=True, num_encoder_layers=1, num_decoder_layers=1
    )
    if stack == "encoder":
        deeper = dataclasses.replace(plain, num_encoder_layers=2)
    else:
        deeper = dataclasses.replace(plain, num_decoder_layers=2)
    return saved_bytes(deeper, *arguments) - saved_bytes(plain, *arguments)


def _layer_parameter_bytes(share: mt5.MT5Config) -> int:
    """A decoder layer's: eight projections and the MLP's three."""
    return 4 * share.emb_dim * (8 * share.num_heads * share.head_dim + 3 * share.mlp_dim)


def _bytes(shape: tuple[int, ...], dtype: Any) -> int:
    size = 1
    for n in shape:
        size *= n
    itemsize = getattr(dtype, "itemsize", 4)  # a random key's type has its own idea of size
    return size * itemsize
