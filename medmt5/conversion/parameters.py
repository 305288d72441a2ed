"""Our parameters as names joined by "/", and back as the tree that the model takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
from flax import traverse_util

from medmt5.conversion.weights import TensorInfo
from medmt5.errors import InputError
from medmt5.model.mt5 import MT5Config, param_shapes

SHOWN = 12  # lines of a list of problems


def parameter_shapes(config: MT5Config) -> dict[str, tuple[int, ...]]:
    """Returns the shape of every parameter of a model, by name; nothing is allocated."""
    shapes = jax.tree.map(lambda box: box.value, param_shapes(config), is_leaf=lambda x: hasattr(x, "names"))
    return {name: leaf.shape for name, leaf in by_name(shapes).items()}


def by_name(tree: Any) -> dict[str, Any]:
    """Returns the leaves of nested dictionaries by name."""
    return traverse_util.flatten_dict(tree, sep="/")


def as_tree(leaves: Mapping[str, Any]) -> Any:
    return traverse_util.unflatten_dict(dict(leaves), sep="/")


def check_parameters(where: object, tensors: Mapping[str, TensorInfo], config: MT5Config) -> None:
    """Raises InputError naming the parameters that are missing in `tensors`, left over or of another shape."""
    wanted = parameter_shapes(config)
    problems = [f"  missing: {name} {shape}" for name, shape in wanted.items() if name not in tensors]
    problems += [f"  not in this model: {name} {info.shape}" for name, info in tensors.items() if name not in wanted]
    problems += [
        f"  {name}: {tensors[name].shape} there, {shape} in this model"
        for name, shape in wanted.items()
        if name in tensors and tensors[name].shape != shape
    ]
    if problems:
        raise InputError(
            f"{where} does not fit this model; use the model file (gin/model/) of its size\n" + shorten(problems)
        )


def shorten(problems: list[str]) -> str:
    more = len(problems) - SHOWN
    return "\n".join(problems[:SHOWN] + ([f"  and {more} more"] if more > 0 else []))


def config_of(tensors: Mapping[str, TensorInfo], where: object) -> MT5Config:
    """Returns the shape of the model that has these parameters; raises InputError where some do not fit the others."""
    try:
        rows, embed = tensors["token_embedder/embedding"].shape
        heads, _ = tensors["encoder/relpos_bias/rel_embedding"].shape
        layers, _, joined = tensors["encoder/layers/attention/query/kernel"].shape
        decoder_layers, _, mlp = tensors["decoder/layers/mlp/wi_0/kernel"].shape
    except (KeyError, ValueError) as error:
        raise InputError(f"{where} has not the parameters of an mT5: {error}") from None
    config = MT5Config(rows, embed, heads, layers, decoder_layers, joined // heads, mlp)
    check_parameters(where, tensors, config)
    return config
