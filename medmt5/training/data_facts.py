"""What decides which examples a step has: alike in all processes of a run, and as long as it goes on in one MODEL_DIR.

Checkpoints hold it in `data`: {"stores": {task/split: digest}, "batches": {macro: value, "the rates of …": …}}.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medmt5.errors import InputError

Facts = Mapping[str, Mapping[str, Any]]


def check_same_data(saved: Facts, now: Facts, model_dir: str | Path) -> None:
    """Raises InputError where a run would go on with other data than `saved`, which its checkpoint was trained on."""
    if changed := differences(saved.get("stores", now["stores"]), now["stores"]):
        raise InputError(
            f"the token stores changed since {model_dir} was started: {', '.join(changed)}; restore them, or "
            "start in another MODEL_DIR with INITIAL_CHECKPOINT_PATH"
        )
    before, after = saved.get("batches", now["batches"]), now["batches"]  # not in checkpoints of earlier versions
    if changed := differences(before, after):
        raise InputError(
            f"{model_dir} was started with "
            + ", ".join(f"{name} = {before.get(name)}, not {after.get(name)}" for name in changed)
            + ": its next steps would have other batches than those so far; set it back, or start in another "
            "MODEL_DIR with INITIAL_CHECKPOINT_PATH"
        )


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Returns the names whose values differ, sorted."""
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))
