"""Loss, accuracy and perplexity on held-out text, a language each, over batches that are the same every time."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from medmt5.training.goodput import Clock
from medmt5.training.step import TrainState


def make_evaluate(
    eval_step: Any,
    batches: Mapping[str, Sequence[Callable[[], Any]]],
    clock: Clock,
) -> Callable[[TrainState], dict[str, float]]:
    """Returns state -> metrics; {} where there is nothing to evaluate on.

    Metrics: `eval/<language>/loss`, `…/accuracy` and `…/perplexity` (exp of the mean cross-entropy a target token,
    without z-loss; inf where that overflows), and their means over languages, each language counting alike:
    `eval_loss`, `eval_accuracy`; `eval_perplexity` is exp of the mean cross-entropy.

    Args:
      eval_step: jitted (params, batch) -> `losses.Loss`, as `step.make_eval_step` returns it.
      batches: language -> functions that each return one batch on the devices.
      clock: compiling, at the first call, is told apart from evaluating.
    """
    compiled: Any = None

    def evaluate(state: TrainState) -> dict[str, float]:
        nonlocal compiled
        sums = {}
        for language, makes in batches.items():
            losses = []
            for make in makes:
                batch = make()
                if compiled is None:
                    with clock.spend("compile"):
                        compiled = eval_step.lower(state.params, batch).compile()
                losses.append(compiled(state.params, batch))
            sums[language] = losses
        # Read only now: the devices went from one language to the next without waiting for the host.
        return summarize({language: jax.device_get(losses) for language, losses in sums.items()}) if sums else {}

    return evaluate


def summarize(losses: Mapping[str, Sequence[Any]]) -> dict[str, float]:
    """Returns the metrics of `make_evaluate` from language -> a `losses.Loss` of floats a batch."""
    metrics: dict[str, float] = {}
    means = []
    for language, parts in losses.items():
        _, total, cross_entropy, _, correct, weight = (sum(map(float, column)) for column in zip(*parts, strict=True))
        weight = max(weight, 1.0)
        means.append((total / weight, correct / weight, cross_entropy / weight))
        metrics[f"eval/{language}/loss"] = total / weight
        metrics[f"eval/{language}/accuracy"] = correct / weight
        metrics[f"eval/{language}/perplexity"] = _exp(cross_entropy / weight)
    loss, accuracy, cross_entropy = (sum(column) / len(means) for column in zip(*means, strict=True))
    return metrics | {"eval_loss": loss, "eval_accuracy": accuracy, "eval_perplexity": _exp(cross_entropy)}


def _exp(value: float) -> float:
    try:
        return math.exp(value)
    except OverflowError:
        return math.inf
