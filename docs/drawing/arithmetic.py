"""Convolution, ReLU, max pooling and up-convolution on grids small enough to follow by eye."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
from drawing.canvas import BLUE, GREEN, GREY, ORANGE, RED, SKY, arrow, write
from keras import ops
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

# The arrays of the guide's text
PIXELS = np.array(
    [[0, 0, 3, 3, 3], [0, 0, 3, 3, 3], [0, 1, 3, 3, 2], [0, 0, 3, 3, 1], [0, 0, 3, 2, 0]]
)
EDGE = np.array([[-1, 0, 1], [-1, 0, 1], [-1, 0, 1]])
STRONG = np.array([[1, 0, 2, 1], [4, 1, 0, 3], [0, 2, 5, 1], [1, 0, 1, 2]])
COARSE = np.array([[1, 2], [0, 3]])
SPREAD = np.array([[1, 2], [3, 4]])


def _run(operation: Any, image: np.ndarray, *kernel: np.ndarray, **options: Any) -> np.ndarray:
    """A Keras operation on one image [H, W] of one channel, with a kernel [h, w] if it has one."""
    tensors = [image[None, :, :, None].astype("float32")]
    tensors += [k[:, :, None, None].astype("float32") for k in kernel]
    return ops.convert_to_numpy(operation(*tensors, **options))[0, :, :, 0].astype(int)


def convolve(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Unpadded convolution of [H, W] by [h, w] as Keras does it."""
    return _run(ops.conv, image, kernel, padding="valid")


def max_pool(image: np.ndarray) -> np.ndarray:
    """2x2 max pooling with stride 2 of [H, W]."""
    return _run(ops.max_pool, image, pool_size=2, strides=2)


def up_convolve(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """2x2 up-convolution with stride 2 of [H, W]."""
    return _run(ops.conv_transpose, image, kernel, strides=2, padding="valid")


def draw_arithmetic() -> Figure:
    """Three rows: convolution and ReLU, max pooling, up-convolution."""
    figure = Figure(figsize=(9, 7.2), layout="constrained")
    top, middle, bottom = figure.subplots(3, 1, height_ratios=(5.6, 4.6, 4.6))

    edges = convolve(PIXELS, EDGE)
    window = {(y, x) for y in range(3) for x in range(3)}
    _grid(top, 0, PIXELS, SKY, window, "input 5×5")
    write(top, 5.75, 0, "∗", size=16)
    _grid(top, 6.5, EDGE, "#E8E8E8", None, "kernel 3×3 (learned)")
    write(top, 10.25, 0, "=", size=16)
    _grid(top, 11, edges, SKY, {(0, 0)}, "convolution: 3×3 left")
    arrow(top, (14.3, 0), (15.9, 0), BLUE)
    write(top, 15.1, 0.35, "ReLU", size=9)
    _grid(top, 16.2, np.maximum(edges, 0), SKY, set(), "negative → 0")

    blocks = {(y, x) for y in range(2) for x in range(2)}
    _grid(middle, 2.5, STRONG, SKY, blocks, "input 4×4", lines=2)
    arrow(middle, (7.2, 0), (10.3, 0), RED)
    write(middle, 8.75, 0.4, "max pooling 2×2", size=9)
    _grid(middle, 11, max_pool(STRONG), SKY, {(0, 0)}, "the largest of each four")

    _grid(bottom, 2.5, COARSE, SKY, {(0, 1)}, "input 2×2")
    write(bottom, 5.3, 0, "∗", size=16)
    _grid(bottom, 6, SPREAD, "#E8E8E8", None, "kernel 2×2 (learned)")
    arrow(bottom, (8.3, 0), (11.4, 0), ORANGE)
    write(bottom, 9.85, 0.4, "up-convolution", size=9)
    spread = {(y, x) for y in (0, 1) for x in (2, 3)}
    _grid(bottom, 12, up_convolve(COARSE, SPREAD), SKY, spread, "output 4×4", lines=2)

    for axes, half in ((top, 2.5), (middle, 2.0), (bottom, 2.0)):
        axes.set(xlim=(-0.3, 19.5), ylim=(-half - 0.8, half + 0.2), aspect="equal")
        axes.axis("off")
    return figure


def _grid(
    axes: Axes,
    left: float,
    values: np.ndarray,
    color: str,
    marked: Collection[tuple[int, int]] | None,
    caption: str,
    lines: int = 0,
) -> None:
    """Numbers in squares, centred on y = 0; squares that are not `marked` are white.

    None marks all; `lines` draws a heavier line every so many squares.
    """
    height, width = values.shape
    for (y, x), value in np.ndenumerate(values):
        face = color if marked is None or (y, x) in marked else "white"
        corner = (left + x, height / 2 - y - 1)
        axes.add_patch(Rectangle(corner, 1, 1, fc=face, ec=GREY, lw=0.8))
        write(axes, corner[0] + 0.5, corner[1] + 0.5, f"{value}".replace("-", "−"), size=10)
    for y in range(0, height, lines) if lines else ():
        for x in range(0, width, lines):
            corner = (left + x, height / 2 - y - lines)
            axes.add_patch(Rectangle(corner, lines, lines, fc="none", ec=GREEN, lw=2))
    write(axes, left + width / 2, -height / 2 - 0.4, caption, size=9, color=GREY)
