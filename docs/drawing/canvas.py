"""What the guide's figures share: colours, text and arrows."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes

# Okabe & Ito 2008: told apart by colour-blind readers too
BLUE, ORANGE, GREEN, RED, YELLOW = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#F0E442"
SKY, GREY = "#9CCBEA", "#5F5F5F"

Point = tuple[float, float]


def write(axes: Axes, x: float, y: float, text: str, size: float = 8.5, **style: Any) -> None:
    """Text at (x, y), centred unless `ha` and `va` say otherwise."""
    axes.text(x, y, text, **{"ha": "center", "va": "center", "fontsize": size, **style})


def arrow(axes: Axes, start: Point, end: Point, color: str, line: str = "-") -> None:
    """An arrow between two points (x, y)."""
    style = {"arrowstyle": "-|>", "color": color, "lw": 1.5, "ls": line, "mutation_scale": 9}
    axes.annotate("", end, start, arrowprops={**style, "shrinkA": 1, "shrinkB": 1})
