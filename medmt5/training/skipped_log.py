"""What the host does about steps that did not count: tells of each, and stops a run in which too many follow each
other.

`MODEL_DIR/skipped_steps.jsonl` holds an object a skipped step: `step` (as in `metrics.jsonl`), `loss`, `gradient_norm`
(null where not finite) and `examples`: where each example of its batch comes from, as record numbers of the token
stores. Never text: a person who may read the data looks them up there.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from medmt5.errors import InputError
from medmt5.training.metrics_log import read_metrics

FILE_NAME = "skipped_steps.jsonl"
NAMED_EXAMPLES = 4

Examples = Sequence[dict[str, Any]]
"""Of a batch, row by row: {"row", "task", "split", "epoch", "records": [first, last]}; packed rows hold several."""


class SkippedLog:
    """Keeps `skipped_steps.jsonl` of a MODEL_DIR.

    Args:
      start_step: where the run begins; what the file says of later steps is dropped.
      limit: the run stops when so many steps in a row were skipped.
      examples_of: step, counted from 0 -> the examples of its batch.
      active: False on every process but one: nothing is written.
    """

    def __init__(
        self,
        model_dir: Path,
        start_step: int,
        limit: int,
        examples_of: Callable[[int], Examples],
        active: bool = True,
    ):
        self._path, self._limit, self._examples_of, self._active = (
            Path(model_dir) / FILE_NAME, limit, examples_of, active,
        )  # fmt: skip
        if active and self._path.is_file():
            kept = [line for line in read_metrics(self._path) if line["step"] <= start_step]
            temporary = self._path.with_suffix(".part")
            temporary.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
            temporary.replace(self._path)

    def note(self, step: int, loss: float, gradient_norm: float, in_a_row: int) -> str:
        """Records that `step` was skipped, the `in_a_row`th without one that counted; returns what a person reads.

        Raises InputError when that is the limit.
        """
        examples = self._examples_of(step - 1)  # step n is trained on batch n - 1
        if self._active:
            line = {
                "step": step,
                "loss": loss if math.isfinite(loss) else None,
                "gradient_norm": gradient_norm if math.isfinite(gradient_norm) else None,
                "examples": list(examples),
            }
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line, allow_nan=False) + "\n")
        values = f"loss {loss:.4g}, gradient norm {gradient_norm:.4g}"
        if in_a_row < self._limit:
            return f"step {step} is skipped, its batch changes nothing: {values} ({FILE_NAME} names the examples)"
        raise InputError(
            f"steps {step - in_a_row + 1} to {step} were all skipped (the last: {values}), and MAX_SKIPPED_STEPS = "
            f"{self._limit}: the weights are still those of step {step - in_a_row}. The batch of step {step}: "
            f"{describe_examples(examples)}; {self._path} names all. Look at these examples, lower LEARNING_RATE or "
            "raise WARMUP_STEPS, and start the command again to go on from the last checkpoint"
        )


def describe_examples(examples: Examples) -> str:
    """Returns the first few.

    >>> describe_examples([{"task": "t.en", "split": "train", "epoch": 0, "records": [7, 9]}] * 5)
    't.en/train records 7-9, t.en/train records 7-9, t.en/train records 7-9, t.en/train records 7-9 and 1 more'
    """
    named = []
    for example in examples[:NAMED_EXAMPLES]:
        first, last = example["records"]
        records = f"record {first}" if first == last else f"records {first}-{last}"
        named.append(f"{example['task']}/{example['split']} {records}")
    more = len(examples) - len(named)
    return ", ".join(named) + (f" and {more} more" if more > 0 else "")
