"""Draws the guide's figures from the package itself: `python docs/figures.py [FOLDER]`.

Sizes, channels, crops, tiles and weights are read from the code; nothing is downloaded.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from drawing.arithmetic import draw_arithmetic
from drawing.augmentation import draw_augmentation
from drawing.border_weight import draw_border_weight
from drawing.overlap_tile import draw_overlap_tile
from drawing.packages import draw_packages
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

import keras_unet

FOLDER = Path(__file__).parent / "figures"
DPI = 100
LIMIT = 200_000  # bytes; a larger picture is stored with a palette
FIGURES: dict[str, Callable[[], Figure]] = {
    "architecture": lambda: keras_unet.plot_unet(keras_unet.build_unet((572, 572, 1))),
    "arithmetic": draw_arithmetic,
    "augmentation": draw_augmentation,
    "overlap-tile": draw_overlap_tile,
    "packages": draw_packages,
    "weight-map": draw_border_weight,
}


def write_figures(folder: Path = FOLDER) -> list[Path]:
    """Draws every figure to `folder`/NAME.png and returns the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, draw in FIGURES.items():
        path = folder / f"{name}.png"
        canvas = FigureCanvasAgg(draw())
        canvas.figure.set_dpi(DPI)
        canvas.draw()
        picture = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
        picture.save(path, optimize=True)
        if path.stat().st_size > LIMIT:
            picture.quantize(96, dither=Image.Dither.NONE).save(path, optimize=True)
        written.append(path)
    return written


if __name__ == "__main__":
    for file in write_figures(*map(Path, sys.argv[1:2])):
        print(f"{file}: {file.stat().st_size / 1000:.0f} kB")
