"""A run of adapters stands on a base that its checkpoints do not hold: read from where it is, and not to be changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from medmt5.checkpoints.adapters import Record, make_record
from medmt5.errors import InputError
from medmt5.model.lora import LoRA
from medmt5.training import trainable
from medmt5.training.step import TrainState


def put_on_base(
    state: TrainState,
    base: Path,
    saved: Record | None,
    *,
    load: Callable[[Path, Any, Any], Any],
    lora: LoRA,
    trained: frozenset[str] | None,
    shapes: TrainState,
    shardings: TrainState,
) -> tuple[TrainState, Record]:
    """Returns the state with the parameters of `base` below its own, and what its checkpoints say of the base.

    Args:
      state: fresh (`saved` None), of which the adapters are kept; or restored, of trained parameters alone.
      base: a checkpoint folder.
      load: (base, shapes, shardings) -> its parameters.
      saved: what the restored checkpoint says of its base.

    Raises:
      InputError: the base, or LORA_ALPHA, is not what the run was started with.
    """
    adapters = trainable.adapter_names(shapes.params)
    plain = (trainable.split(tree, adapters)[1] for tree in (shapes.params, shardings.params))
    own: Any = trainable.split(state.params, adapters)[0] if saved is None else state.params
    params = trainable.join(own, load(base, *plain))
    frozen = trainable.split(params, trained)[1]
    if saved is not None:
        saved.check(frozen, base)
        if saved.alpha != lora.alpha:
            raise InputError(f"the run was started with LORA_ALPHA = {saved.alpha}, not {lora.alpha}; set it to that")
    return state.replace(params=params), make_record(base, lora.alpha, frozen)
