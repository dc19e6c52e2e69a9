"""The overlap-tile strategy (paper, figure 2): mirrored margin, input tile, output."""

from __future__ import annotations

import numpy as np
from drawing.canvas import BLUE, GREY, RED, write
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from keras_unet import geometry
from keras_unet.data import make_cells
from keras_unet.inference import tiles
from keras_unet.weight_maps import separate_cells

IMAGE, DEPTH = 512, 4  # the paper's electron microscopy images have 512 pixels a side


def draw_overlap_tile() -> Figure:
    """An image with its mirrored margin and four tiles; one of them as the network sees it."""
    tile = geometry.input_size(388, DEPTH)
    image, labels = make_cells(IMAGE, seed=5, diameter=52.0, coverage=0.85, noise=0.0)
    margin, output = geometry.margin(DEPTH), geometry.output_size(tile, DEPTH)
    stride = output // geometry.stride(DEPTH) * geometry.stride(DEPTH)
    origins = range(0, IMAGE, stride)  # of the outputs, along each axis
    height = IMAGE + 2 * margin  # of every panel, so that all have one scale

    figure = Figure(figsize=(11, 4.6), layout="constrained")
    whole, one, answer = figure.subplots(1, 3, width_ratios=(height, tile + 20, output + 90))

    around = tiles.mirrored(-margin, IMAGE + margin, IMAGE)
    extent = (-margin, IMAGE + margin, IMAGE + margin, -margin)
    mirrored = image[np.ix_(around, around)]
    whole.imshow(mirrored, cmap="gray", extent=extent, alpha=0.5, vmin=0, vmax=255)
    whole.imshow(image, cmap="gray", extent=(0, IMAGE, IMAGE, 0), vmin=0, vmax=255)
    _frame(whole, 0, IMAGE, "white", 1.2)
    for origin in origins[1:]:  # where the next tile's output begins
        whole.plot((origin, origin), (0, IMAGE), color="white", ls=":", lw=1.5)
        whole.plot((0, IMAGE), (origin, origin), color="white", ls=":", lw=1.5)
    _frame(whole, -margin, tile, BLUE, 3)
    _frame(whole, 0, output, RED, 3)
    _panel(
        whole,
        (-margin, IMAGE + margin),
        height,
        f"image {IMAGE}×{IMAGE}, mirrored around it",
        f"{len(origins) ** 2} tiles, a new one every {stride} pixels (dotted)",
    )

    first = tiles.mirrored(-margin, tile - margin, IMAGE)
    seen = image[np.ix_(first, first)]
    one.imshow(seen, cmap="gray", vmin=0, vmax=255)
    _frame(one, 0, tile - 1, BLUE, 3)
    _frame(one, margin, output, RED, 2)
    style = {"facecolor": "black", "edgecolor": "none", "pad": 2}
    write(one, margin / 2, tile / 2, f"margin {margin}", 9, rotation=90, color="white", bbox=style)
    _panel(one, (0, tile), height, f"one tile in: {tile}×{tile}", "image and mirrored margin")

    mask = separate_cells(labels, 2)[:output, :output] > 0
    answer.imshow(mask, cmap="gray", interpolation="nearest")
    _frame(answer, 0, output - 1, RED, 3)
    _panel(answer, (0, output), height, f"out: {output}×{output}", "cells white (here: the truth)")
    return figure


def _frame(axes: Axes, corner: float, side: float, color: str, width: float) -> None:
    """A square whose upper left corner is at (corner, corner)."""
    axes.add_patch(Rectangle((corner, corner), side, side, fc="none", ec=color, lw=width))


def _panel(axes: Axes, span: tuple[float, float], height: float, title: str, below: str) -> None:
    """Centres a square picture from span[0] to span[1] in a panel; text above and below it."""
    middle, (low, high) = sum(span) / 2, span
    axes.set(ylim=(middle + height / 2 + 50, middle - height / 2 - 50), xlim=span)
    write(axes, middle, low - 14, title, 11, va="bottom")
    write(axes, middle, high + 14, below, 9, va="top", color=GREY)
    axes.axis("off")
