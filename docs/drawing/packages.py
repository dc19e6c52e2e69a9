"""The packages in layers, as the import contracts have them, and who imports whom."""

from __future__ import annotations

import ast
import textwrap
from pathlib import Path

from drawing.canvas import BLUE, GREY, SKY, arrow, write
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

import keras_unet

ROOT = Path(keras_unet.__file__).parent
LAYERS = (
    ("cli",),
    ("diffusion",),
    ("training", "serving", "explorer"),
    ("evaluation",),
    ("inference",),
    ("models", "losses"),
    ("data",),
    ("augment",),
)
ABOVE = ("metrics",)  # a single module that imports a package, losses
WIDE, HIGH, GAP = 3.6, 0.86, 0.42


def packages() -> dict[str, str]:
    """Each package of keras_unet and what its docstring begins with."""
    found = {}
    for file in sorted(ROOT.glob("*/__init__.py")):
        text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
        found[file.parent.name] = text.split("\n\n")[0].replace("\n", " ")
    return found


def imports() -> set[tuple[str, str]]:
    """Pairs of packages, of which a file of the first imports from the second."""
    found = set()
    for package in packages():
        for file in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ImportFrom) and node.module:
                    parts = node.module.split(".")
                    names = [parts[1]] if len(parts) > 1 else [name.name for name in node.names]
                    if parts[0] == "keras_unet":
                        found |= {(package, name) for name in names}
    return {(one, other) for one, other in found if one != other and other in packages()}


def draw_packages() -> Figure:
    """A row a layer, an arrow from each package to the nearest below that it imports."""
    about = packages()
    figure = Figure(figsize=(11, 9.4), layout="constrained")
    axes = figure.subplots()
    rows = {name: row for row, layer in enumerate(LAYERS) for name in layer}
    middle = {}
    for row, layer in enumerate(LAYERS):
        for place, name in enumerate(layer):
            x = (place - (len(layer) - 1) / 2) * (WIDE + 0.5)
            y = -row * (HIGH + GAP)
            middle[name] = (x, y)
            box = (x - WIDE / 2, y - HIGH / 2)
            style = {
                "boxstyle": "round,pad=0,rounding_size=0.08",
                "fc": SKY,
                "ec": BLUE,
                "zorder": 4,
            }
            axes.add_patch(FancyBboxPatch(box, WIDE, HIGH, **style))
            write(axes, x, y + 0.24, name, 10, weight="bold", zorder=5)
            lines = textwrap.wrap(about[name].rstrip("."), 46)[:2]
            write(axes, x, y - 0.16, "\n".join(lines), 7.5, linespacing=1.15, zorder=5)
    below = imports()
    for one, (x, y) in middle.items():
        used = [rows[other] for start, other in below if start == one]
        for other in LAYERS[min(used)] if used else ():
            if (one, other) in below:
                to_x, to_y = middle[other]
                shift = 0.25 * ((to_x > x) - (to_x < x))
                arrow(axes, (x + shift, y - HIGH / 2), (to_x - shift, to_y + HIGH / 2), GREY)
    y, half = -len(LAYERS) * (HIGH + GAP), 1.5 * WIDE + 0.5
    roots = sorted(file.stem for file in ROOT.glob("*.py") if file.stem not in ABOVE)
    roots = [name for name in roots if not name.startswith("_")]
    box = (-half, y - HIGH / 2)
    style = {"boxstyle": "round,pad=0,rounding_size=0.08", "fc": "#EEEEEE", "ec": GREY}
    axes.add_patch(FancyBboxPatch(box, 2 * half, HIGH, **style))
    write(axes, 0, y + 0.24, "single modules, which import no package", 10, weight="bold")
    write(axes, 0, y - 0.16, "\n".join(textwrap.wrap(", ".join(roots), 110)), 7.5)
    axes.set(xlim=(-half - 0.1, half + 0.1), ylim=(y - HIGH / 2 - 0.05, HIGH / 2 + 0.05))
    axes.axis("off")
    return figure
