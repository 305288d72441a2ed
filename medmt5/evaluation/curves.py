"""Draws loss curves as SVG for an HTML page: no script, colours by the page's CSS variables, readable when narrow.

Names of runs are not drawn: the page's legend shows them, escaped, with the same line styles (`DASHES`).
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

DASHES = ("none", "7 3", "2 3", "9 3 2 3")
"""Stroke patterns that tell runs apart without colour, in the order of the runs."""
NUM_COLORS = 6
# matplotlib wants real colours; these are replaced by CSS variables, so that the page decides, light or dark.
PLACEHOLDERS = {f"#0102{i:02x}": f"var(--run-{i})" for i in range(NUM_COLORS)} | {
    "#010300": "var(--ink)",
    "#010301": "var(--rule)",
}
INK, RULE = list(PLACEHOLDERS)[-2:]
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": RULE,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "ytick.minor.size": 0,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
}


def draw_losses(runs: Mapping[int, Sequence[Mapping[str, float]]], title: str) -> str:
    """Returns an `<svg>` element of the loss by step: lines for training, dots for the development split.

    Args:
      runs: number of the run, which chooses colour and dash -> its metrics: `step` with `loss`, `eval_loss` or neither.
      title: what a screen reader says; plain words, not from data.
    """
    with rc_context(STYLE | {"svg.hashsalt": title}):
        figure = Figure(figsize=(5.2, 3.1), layout="constrained")
        axes = figure.subplots()
        losses: list[float] = []
        for run, metrics in runs.items():
            color = list(PLACEHOLDERS)[run % NUM_COLORS]
            dash = DASHES[run % len(DASHES)]
            pattern = (0, tuple(map(float, dash.split()))) if dash != "none" else "-"
            for name, style in (
                ("loss", {"linestyle": pattern, "linewidth": 1.8}),
                ("eval_loss", {"linestyle": "none", "marker": "o", "markersize": 5, "markerfacecolor": "none"}),
            ):
                points = [(line["step"], line[name]) for line in metrics if name in line]
                axes.plot([step for step, _ in points], [loss for _, loss in points], color=color, **style)
                losses += [loss for _, loss in points]
        if losses and min(losses) > 0 and max(losses) > 10 * min(losses):
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter(NullFormatter())
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.grid(axis="y")
        axes.set(xlabel="step", ylabel="loss (nats per token)")
        axes.spines[["top", "right", "left"]].set_visible(False)
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _for_page(file.getvalue(), title)


def _for_page(svg: str, title: str) -> str:
    svg = svg[svg.index("<svg") :]
    for color, variable in PLACEHOLDERS.items():
        svg = svg.replace(color, variable)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    # Without a fixed size the picture takes the width that the page has; viewBox keeps the proportions.
    head, body = svg.split(">", 1)
    head = re.sub(r' (?:width|height)="[^"]*"', "", head)
    return f'{head} role="img" aria-label="{title}"><title>{title}</title>{body}'
