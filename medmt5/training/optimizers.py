"""Adafactor as T5X's and AdamW, layer by layer where layers are stacked, and how their state is sharded.

optax has the pieces; what it lacks is that one leaf of ours holds all layers of a stack. Factoring, clipping and the
parameter scale must see each layer alone, so the transformation is mapped over the `layers` axis: a scanned and an
unscanned model take the same steps.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

MIN_DIM_SIZE_TO_FACTOR = 128
_STACKS = ("encoder", "decoder")


def adafactor(
    learning_rate: optax.ScalarOrSchedule,
    multiply_by_parameter_scale: bool = True,
    decay_rate: float = 0.8,
    clipping_threshold: float = 1.0,
) -> optax.GradientTransformation:
    """Adafactor (Shazeer & Stern 2018) as T5X runs it: factored second moments, no momentum, update clipped to RMS 1.

    Steps are multiplied by max(RMS(parameter), 1e-3) unless `multiply_by_parameter_scale` is False (the authors'
    fine-tuning).
    """
    steps = [
        optax.scale_by_factored_rms(decay_rate=decay_rate, min_dim_size_to_factor=MIN_DIM_SIZE_TO_FACTOR),
        optax.clip_by_block_rms(clipping_threshold),
    ]
    if multiply_by_parameter_scale:
        steps.append(optax.scale_by_param_block_rms(1e-3))
    return optax.chain(_each_layer(optax.chain(*steps)), optax.scale_by_learning_rate(learning_rate))


def adamw(
    learning_rate: optax.ScalarOrSchedule,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
) -> optax.GradientTransformation:
    """AdamW (Loshchilov & Hutter 2019); element-wise, so stacked layers need no care."""
    return optax.adamw(learning_rate, b1=b1, b2=b2, eps=eps, weight_decay=weight_decay)


def _each_layer(transformation: optax.GradientTransformation) -> optax.GradientTransformation:
    """Maps `transformation` over axis 0 of every leaf below a `layers` key, and leaves the others whole."""
    mapped = optax.GradientTransformation(
        jax.vmap(transformation.init),
        lambda updates, state, params: jax.vmap(transformation.update)(updates, state, params),
    )

    def kinds(params):
        # One group a stack: encoder and decoder may differ in depth.
        return jax.tree_util.tree_map_with_path(
            lambda path, _: _names(path)[0] if "layers" in _names(path) else "single", params
        )

    return optax.partition({**dict.fromkeys(_STACKS, mapped), "single": transformation}, kinds)


def state_specs(opt_state: Any, param_specs: Any, param_shapes: Any) -> Any:
    """Returns a PartitionSpec a leaf of `opt_state` (ShapeDtypeStructs by eval_shape), derived from the parameters'
    specs.

    A leaf belongs to the parameter whose path ends its own. With the parameter's shape it is sharded like it; a
    factored statistic has lost one of the parameter's two largest axes, and loses that entry of the spec; anything else
    (counts, placeholders) is replicated.
    """
    P = jax.sharding.PartitionSpec
    is_spec = lambda x: isinstance(x, P)  # noqa: E731
    specs = {_names(path): spec for path, spec in jax.tree_util.tree_leaves_with_path(param_specs, is_leaf=is_spec)}
    shapes = {_names(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(param_shapes)}

    def spec_of(path, leaf):
        names = _names(path)
        owner = next((names[i:] for i in range(len(names)) if names[i:] in shapes), None)
        if owner is None:
            return P()
        shape, spec = shapes[owner], tuple(specs[owner])
        spec += (None,) * (len(shape) - len(spec))
        if leaf.shape == shape:
            return P(*spec)
        kept = _kept_axes(shape, "layers" in owner, names)
        if kept is not None and leaf.shape == tuple(shape[i] for i in kept):
            return P(*(spec[i] for i in kept))
        return P()

    return jax.tree_util.tree_map_with_path(spec_of, opt_state)


def _kept_axes(shape: tuple[int, ...], stacked: bool, names: tuple[str, ...]) -> list[int] | None:
    """Axes of the parameter that optax's v_row (the largest is averaged away) or v_col (the second largest) keeps."""
    first = 1 if stacked else 0
    if len(shape) - first < 2:
        return None
    order = [first + int(i) for i in np.argsort(shape[first:])]
    dropped = order[-1] if "v_row" in names else order[-2] if "v_col" in names else None
    return None if dropped is None else [i for i in range(len(shape)) if i != dropped]


def _names(path: tuple) -> tuple[str, ...]:
    return tuple(str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path)


def unboxed_specs(boxed_params: Any) -> Any:
    """Returns the logical axis names of each parameter as a PartitionSpec of names."""
    return nn.get_partition_spec(boxed_params)


def global_norm(tree: Any) -> jax.Array:
    """Returns sqrt of the sum of squares over all leaves, float32 scalar."""
    return optax.tree.norm(jax.tree.map(lambda x: x.astype(jnp.float32), tree))
