"""T5X's names and axes of our parameters, and which of its three layouts a set of leaves has.

    ours        encoder/layers/attention/query/kernel     [layers, embed, joined]
    unscanned   encoder/layers_0/attention/query/kernel   [embed, joined]                 examples/t5, the public mT5
    scanned     encoder/encoder/attention/query/kernel    [embed, layers, heads, kv]      examples/scalable_t5, umT5

All other names are equal but for the table of relative positions: scanned, each layer has its own below
`encoder/encoder`. T5X's `param_scan_axis` (1 if nobody set it) says where the layers are; a checkpoint does not say it,
its shapes do.

Axes are letters: V vocabulary, D embed, J joined = H heads x K per head, F mlp, B buckets of relative positions, M and
N layers of the encoder and of the decoder.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from medmt5.conversion.weights import TensorInfo
from medmt5.errors import InputError

DTYPES = ("float32", "bfloat16")
STACKS = {"encoder": "M", "decoder": "N"}
SHOWN = 3  # leaves an error names


def _parameters() -> dict[str, str]:
    axes = {"token_embedder/embedding": "VD"}
    for stack, attentions, norms in (
        ("encoder", ("attention",), ("attention", "mlp")),
        ("decoder", ("self_attention", "encoder_decoder_attention"), ("self_attention", "cross_attention", "mlp")),
    ):
        layers, n = f"{stack}/layers", STACKS[stack]
        axes[f"{stack}/relpos_bias/rel_embedding"] = "HB"
        for attention in attentions:
            axes |= {f"{layers}/{attention}/{part}/kernel": f"{n}DJ" for part in ("query", "key", "value")}
            axes[f"{layers}/{attention}/out/kernel"] = f"{n}JD"
        axes |= {f"{layers}/mlp/{part}/kernel": f"{n}DF" for part in ("wi_0", "wi_1")}
        axes[f"{layers}/mlp/wo/kernel"] = f"{n}FD"
        axes |= {f"{layers}/pre_{norm}_layer_norm/scale": f"{n}D" for norm in norms}
        axes[f"{stack}/{stack}_norm/scale"] = "D"
    axes["decoder/logits_dense/kernel"] = "DV"
    return axes


AXES = _parameters()  # our name -> its axes


class Layout(NamedTuple):
    """Where T5X puts layers, and how long the axes are.

    `scan_axis` is 0 or 1, or None for a model whose layers are leaves of their own.
    """

    scan_axis: int | None
    sizes: dict[str, int]

    def leaves(self, name: str) -> list[str]:
        """Returns the T5X leaves that hold our parameter `name`: one, or one a layer."""
        stack = name.split("/")[0]
        if self.scan_axis is not None:
            return [f"{stack}/{name}" if "/relpos_bias/" in name else name.replace("/layers/", f"/{stack}/")]
        if not self.is_a_leaf_per_layer(name):
            return [name]
        return [name.replace("/layers/", f"/layers_{i}/") for i in range(self.sizes[STACKS[stack]])]

    def axes(self, name: str) -> str:
        """Returns the axes of each of these leaves."""
        ours = AXES[name]
        stack_axis = STACKS.get(name.split("/")[0], "")
        stacked = "/layers/" in name or (self.scan_axis is not None and "/relpos_bias/" in name)
        if not stacked:
            return ours
        own = ours.replace(stack_axis, "")
        if self.is_a_leaf_per_layer(name):
            return own
        own = own.replace("J", "HK")
        return own[: self.scan_axis] + stack_axis + own[self.scan_axis :]

    def is_a_leaf_per_layer(self, name: str) -> bool:
        return self.scan_axis is None and "/layers/" in name

    def leaf_shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.sizes[axis] for axis in self.axes(name))

    def shape(self, name: str) -> tuple[int, ...]:
        """Returns the shape of our parameter."""
        return tuple(self.sizes[axis] for axis in AXES[name])

    def as_leaf(self, name: str, array: np.ndarray) -> np.ndarray:
        """Returns `array`, our parameter or a part of it with whole heads, seen with the axes of its leaf: no copy of
        a contiguous one. An axis of layers that ours has not is 1 long.
        """
        ours, leaf = AXES[name], self.axes(name)
        if "J" in ours and "K" in leaf:
            joined = ours.index("J")
            heads = array.shape[joined] // self.sizes["K"]
            array = array.reshape(*array.shape[:joined], heads, self.sizes["K"], *array.shape[joined + 1 :])
            ours = ours.replace("J", "HK")
        for axis in set(leaf) - set(ours):
            array, ours = array[None], axis + ours
        return array.transpose([ours.index(axis) for axis in leaf])


def layout_of(weights: Mapping[str, TensorInfo], scan_axis: int | None) -> Layout:
    """Returns the layout in which T5X would have these parameters of ours. Raises InputError if they are no mT5's."""
    ours = Layout(None, {})
    missing, extra = sorted(set(AXES) - set(weights)), sorted(set(weights) - set(AXES))
    if missing or extra:
        raise InputError(f"T5X's mT5 has other parameters than these weights: {_differences(missing, extra)}")
    for name, axes in AXES.items():
        _bind(ours.sizes, name, axes, weights[name].shape)
    _check_heads(ours.sizes)
    wrong = [name for name in AXES if ours.shape(name) != weights[name].shape]
    if wrong:
        name = wrong[0]
        raise InputError(f"{name} has shape {weights[name].shape}, {ours.shape(name)} would fit the other parameters")
    for name in AXES:
        if weights[name].dtype not in DTYPES:
            raise InputError(f"{name} is {weights[name].dtype}; T5X keeps {' or '.join(DTYPES)}: convert it first")
    return ours._replace(scan_axis=scan_axis)


def detect(leaves: Mapping[str, TensorInfo], where: str) -> Layout:
    """Returns the layout of T5X leaves (names without "target/"); `where` names the checkpoint in errors.

    Raises InputError naming what is missing, left over or of a wrong shape, and what a model of another kind is.
    """
    _refuse_other_models(leaves, where)
    scanned = [f"{stack}/{stack}/mlp/wi_0/kernel" in leaves for stack in STACKS]
    candidates = (0, 1) if any(scanned) else (None,)
    fits, problem = [], ""
    for scan_axis in candidates:
        layout = Layout(scan_axis, {})
        found = _problem(layout, leaves)
        if not found:
            fits.append(layout)
        problem = found or problem  # scan_axis 1 comes last: T5X's default is what an error is about
    if len(fits) == 1:
        return fits[0]
    if fits:
        raise InputError(
            f"{where}: the layers of this scanned model may lie on axis 0 or on axis 1, both fit all shapes; write it "
            "unscanned (scan_layers = False) with T5X and convert that"
        )
    raise InputError(f"{where} is no mT5 of T5X that can be read: {problem}")


def _refuse_other_models(leaves: Mapping[str, TensorInfo], where: str) -> None:
    if any(name.endswith("/mlp/wi/kernel") for name in leaves):
        raise InputError(
            f"{where} has mlp/wi/kernel, the ungated MLP of T5 1.0; medmt5 has the gated one of T5 1.1, mT5 and "
            "Flan-T5 (mlp/wi_0, mlp/wi_1): convert one of those"
        )
    if "token_embedder/embedding" in leaves and "decoder/logits_dense/kernel" not in leaves:
        raise InputError(
            f"{where} has no decoder/logits_dense/kernel, its logits are made with the embedding (T5 1.0, "
            "logits_via_embedding); medmt5 has a matrix of its own for them, as T5 1.1 and mT5: convert one of those"
        )


def _problem(layout: Layout, leaves: Mapping[str, TensorInfo]) -> str:
    """Fills `layout.sizes` from the leaves; returns what contradicts the layout, "" if nothing does."""
    sizes = layout.sizes
    for stack, axis in STACKS.items():
        if layout.scan_axis is None:
            found = {int(m[1]) for name in leaves if (m := re.match(rf"{stack}/layers_(\d{{1,4}})/", name))}
            sizes[axis] = max(found, default=-1) + 1
    try:
        for name in AXES:
            for leaf in layout.leaves(name)[:1]:
                if leaf in leaves:
                    _bind(sizes, leaf, layout.axes(name), leaves[leaf].shape)
    except InputError as error:
        return str(error)
    expected = {leaf: name for name in AXES for leaf in layout.leaves(name)}
    missing, extra = sorted(set(expected) - set(leaves)), sorted(set(leaves) - set(expected))
    if missing or extra or not (sizes.get("M") and sizes.get("N")):
        return _differences(missing, extra)
    try:
        _check_heads(sizes)
    except InputError as error:
        return str(error)
    for leaf, name in expected.items():
        info = leaves[leaf]
        if info.shape != layout.leaf_shape(name):
            return f"{leaf} has shape {info.shape}, {layout.leaf_shape(name)} would fit the other leaves"
        if info.dtype not in DTYPES:
            return f"{leaf} is {info.dtype}, not one of {', '.join(DTYPES)}{_uint16(info.dtype)}"
        first = leaves[layout.leaves(name)[0]].dtype
        if info.dtype != first:
            return f"{leaf} is {info.dtype}, layer 0 is {first}; all layers have one dtype"
    return ""


def _bind(sizes: dict[str, int], leaf: str, axes: str, shape: tuple[int, ...]) -> None:
    """Notes the length of axes not met before; who contradicts them is told later, with all lengths known."""
    if len(shape) != len(axes):
        raise InputError(f"{leaf} has shape {shape}, an array of {len(axes)} axes belongs there")
    for axis, size in zip(axes, shape, strict=True):
        sizes.setdefault(axis, size)


def _check_heads(sizes: dict[str, int]) -> None:
    """Completes J or K, which are known from each other and H."""
    heads = sizes["H"]
    sizes.setdefault("J", heads * sizes.get("K", 0))
    if not heads or sizes["J"] % heads:
        raise InputError(f"attention of width {sizes['J']} cannot have {heads} heads, as rel_embedding says it has")
    sizes.setdefault("K", sizes["J"] // heads)


def _uint16(dtype: str) -> str:
    return " (checkpoints of version 2 hold bfloat16 as uint16: load and save it with T5X once)" * (dtype == "uint16")


def _differences(missing: list[str], extra: list[str]) -> str:
    parts = [
        f"{len(names)} {kind} ({', '.join(names[:SHOWN])}{', …' * (len(names) > SHOWN)})"
        for kind, names in (("missing", missing), ("not known", extra))
        if names
    ]
    return " and ".join(parts) or "it has no layers"
