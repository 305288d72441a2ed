"""The optimizers, Adafactor as T5X's and AdamW, and how their state is sharded."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from medmt5.training.adafactor import factored_axes, scale_by_adafactor


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
    return optax.chain(
        scale_by_adafactor(decay_rate, clipping_threshold, multiply_by_parameter_scale),
        optax.scale_by_learning_rate(learning_rate),
    )


def adamw(
    learning_rate: optax.ScalarOrSchedule,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
) -> optax.GradientTransformation:
    """AdamW (Loshchilov & Hutter 2019); element-wise, so stacked layers need no care."""
    return optax.adamw(learning_rate, b1=b1, b2=b2, eps=eps, weight_decay=weight_decay)


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
        axes = factored_axes(path, shape)
        dropped = None if axes is None else axes[1] if "v_row" in names else axes[0] if "v_col" in names else None
        if dropped is not None and leaf.shape == tuple(np.delete(shape, dropped)):
            return P(*np.delete(np.array(spec, object), dropped))
        return P()

    return jax.tree_util.tree_map_with_path(spec_of, opt_state)


def _names(path: tuple) -> tuple[str, ...]:
    return tuple(str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path)


def global_norm(tree: Any) -> jax.Array:
    """Returns sqrt of the sum of squares over all leaves, float32 scalar."""
    # The barrier: the optimizer squares gradients too, and XLA would store the squares, as large as the model.
    return optax.tree.norm(jax.tree.map(lambda x: jax.lax.optimization_barrier(x).astype(jnp.float32), tree))
