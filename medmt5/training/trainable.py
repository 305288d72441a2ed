"""Which parameters a run trains: ordered rules over their paths, of which every parameter must be covered by one.

    TRAINABLE = (('token_embedder/.*', False), ('encoder/.*', False), ('.*', True))

A rule is (pattern, trained or frozen); the pattern is a regular expression for the whole path, the first that matches
decides. A frozen parameter has no gradient, no optimizer state and no update. With adapters and without rules of its
own a run trains the adapters alone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import optax
from flax import traverse_util

from medmt5.errors import InputError
from medmt5.model import lora, mt5

Rules = Sequence[tuple[str, bool]]
ADAPTERS_ALONE: Rules = ((rf".*/({lora.A}|{lora.B})", True), (".*", False))


def trained_parameters(config: mt5.MT5Config, rules: Rules | None) -> frozenset[str] | None:
    """Returns `trained_names` of a model; `rules` None: all parameters, or the adapters alone where there are any."""
    if rules is None:
        rules = ADAPTERS_ALONE if config.lora.rank else ((".*", True),)
    shapes = mt5.param_shapes(config)
    trained = trained_names(shapes, rules)
    frozen = sorted(adapter_names(shapes) - (adapter_names(shapes) if trained is None else trained))
    if frozen:
        raise InputError(f"TRAINABLE freezes adapters, which do nothing then: {_some(frozen)}; train all of them")
    return trained


def adapter_names(params: Any) -> frozenset[str]:
    """Returns the paths of the adapters in a tree of anything."""
    paths = traverse_util.flatten_dict(params)
    return frozenset("/".join(path) for path in paths if path[-1] in (lora.A, lora.B))


def trained_names(params: Any, rules: Rules) -> frozenset[str] | None:
    """Returns the paths ("encoder/layers/mlp/wi_0/kernel") of the trained parameters; None = all are.

    `params`: a tree of anything. Raises InputError naming parameters without a rule, or rules without a parameter.
    """
    patterns = _compile(rules)
    names = ["/".join(path) for path in traverse_util.flatten_dict(params)]
    deciding = {name: next((i for i, (p, _) in enumerate(patterns) if p.fullmatch(name)), None) for name in names}
    uncovered = [name for name, rule in deciding.items() if rule is None]
    if uncovered:
        raise InputError(
            f"TRAINABLE covers every parameter, but no rule matches {_some(uncovered)}; add a rule for them, "
            "or ('.*', False) at the end to freeze the rest"
        )
    idle = [repr(p.pattern) for i, (p, _) in enumerate(patterns) if i not in deciding.values()]
    if idle:
        raise InputError(
            f"TRAINABLE has rules that decide about no parameter: {_some(idle)}; they match none, or earlier rules "
            f"match all that they do. Patterns match whole paths, such as {names[0]}"
        )
    trained = frozenset(name for name, rule in deciding.items() if rule is not None and patterns[rule][1])
    if not trained:
        raise InputError("TRAINABLE freezes every parameter; nothing is left to train")
    return None if len(trained) == len(names) else trained


def split(params: Any, trained: frozenset[str] | None) -> tuple[Any, Any]:
    """Returns (trained, frozen): the same tree twice, each without the other's leaves."""
    if trained is None:
        return params, {}
    flat = traverse_util.flatten_dict(params)
    parts: tuple[dict, dict] = {}, {}
    for path, leaf in flat.items():
        parts["/".join(path) not in trained][path] = leaf
    return tuple(traverse_util.unflatten_dict(part) for part in parts)  # type: ignore[return-value]


def join(trained: Any, frozen: Any) -> Any:
    """Returns the tree that `split` has split."""
    if not frozen:
        return trained
    return traverse_util.unflatten_dict(traverse_util.flatten_dict(frozen) | traverse_util.flatten_dict(trained))


def keep_state_of(
    optimizer: optax.GradientTransformation, trained: frozenset[str] | None
) -> optax.GradientTransformation:
    """Returns `optimizer` with state for the trained parameters alone; its updates take trees of these."""
    return optax.GradientTransformation(lambda params: optimizer.init(split(params, trained)[0]), optimizer.update)


def _compile(rules: Rules) -> list[tuple[re.Pattern[str], bool]]:
    patterns = []
    for rule in rules:
        try:
            pattern, trained = rule
            if not isinstance(trained, bool):
                raise ValueError
            patterns.append((re.compile(pattern), trained))
        except (ValueError, TypeError, re.error) as error:
            raise InputError(
                f"a rule of TRAINABLE is (regular expression, True or False), e.g. ('encoder/.*', False), not {rule!r}"
            ) from error
    return patterns


def _some(names: list[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
