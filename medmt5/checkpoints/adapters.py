"""Checkpoints that hold adapters (`model.lora`) and whatever else a run trained, but not the base that it froze.

`data` of such a checkpoint has {"adapters": {"base", "alpha", "digests"}}: the folder that the base was read from, the
adapters' scale times their rank, and a digest of each array of the base that the run did not train. A base that is not
there, or is another one, is refused: adapters beside other weights are silently a worse model.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from flax import traverse_util
from jax.sharding import NamedSharding, PartitionSpec

from medmt5 import storage
from medmt5.checkpoints.digests import tree_digests
from medmt5.checkpoints.object_store import fetch_model
from medmt5.errors import InputError
from medmt5.model import lora
from medmt5.training import trainable


@dataclasses.dataclass(frozen=True)
class Record:
    """What a checkpoint of adapters says of its base."""

    base: str
    alpha: float
    digests: Mapping[str, int]

    def check(self, frozen: Any, base: Path) -> None:
        """Raises InputError unless `frozen`, what the run did not train of `base`, is what it was."""
        self.compare(tree_digests(frozen), base)

    def compare(self, now: Mapping[str, int], base: Path) -> None:
        """`check`, of digests."""
        changed = sorted(name for name in now.keys() | self.digests.keys() if now.get(name) != self.digests.get(name))
        if changed:
            raise InputError(
                f"{base} is not the base that the adapters were trained on, {self.base} as it was: {len(changed)} of "
                f"{len(now)} arrays differ, first {changed[0]}; adapters on other weights would be a worse model"
            )

    def base_folder(self, checkpoint: Path) -> Path:
        """Returns where the base is; raises InputError when it is not there."""
        base = fetch_model(self.base)
        if not base.exists():
            raise InputError(
                f"{checkpoint} holds adapters of the base {base}, which is not there; bring it back to that place "
                "(a symbolic link will do)"
            )
        return base


def make_record(base: Path, alpha: float, frozen: Any) -> Record:
    return Record(storage.origin(base), alpha, tree_digests(frozen))


def record_in(data: Mapping[str, Any]) -> Record | None:
    """Returns the record in a checkpoint's `data`; None for a checkpoint of a whole model."""
    return Record(**data["adapters"]) if "adapters" in data else None


def own_layout(stored: Mapping[str, tuple[int, ...]], shapes: Any, shardings: Any) -> tuple[Any, Any]:
    """Returns (shapes, shardings) of what a checkpoint of adapters holds, to be read with.

    Args:
      stored: "path/of/parameter" -> shape, of the checkpoint.
      shapes, shardings: of the plain model. Adapters are small, and are put whole on every device.
    """
    of_model, places = (traverse_util.flatten_dict(tree) for tree in (shapes, shardings))
    everywhere = NamedSharding(next(iter(places.values())).mesh, PartitionSpec())
    own: dict[tuple[str, ...], jax.ShapeDtypeStruct] = {}
    for name, shape in stored.items():
        path = tuple(name.split("/"))
        expected = of_model[path].shape if path in of_model else None
        kernel = of_model.get((*path[:-1], "kernel"))
        if path[-1] in (lora.A, lora.B) and kernel is not None:
            *stack, inputs, outputs = kernel.shape
            expected = (*stack, inputs, shape[-1]) if path[-1] == lora.A else (*stack, shape[-2], outputs)
        if shape != expected:
            raise InputError(f"{name} {shape} of the adapters does not fit this model; use the model file of their run")
        own[path] = jax.ShapeDtypeStruct(shape, "float32")
    return traverse_util.unflatten_dict(own), traverse_util.unflatten_dict(
        {path: places.get(path, everywhere) for path in own}
    )


def merge_into_base(base: Any, own: Any, record: Record, shardings: Any) -> Any:
    """Returns the plain model's parameters: `own` of a checkpoint over its `base`, adapters merged. Donates `base`.

    Raises InputError when the base is not the one that the adapters were trained with.
    """
    names = frozenset("/".join(path) for path in traverse_util.flatten_dict(own))
    frozen = trainable.split(base, names)[1]
    record.check(frozen, Path(record.base))

    def merge(frozen, own):
        return lora.merge_adapters(trainable.join(own, frozen), record.alpha)

    return jax.jit(merge, out_shardings=shardings, donate_argnums=0)(frozen, own)
