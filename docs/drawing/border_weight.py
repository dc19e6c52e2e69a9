"""The weight map over touching cells (paper, figure 3)."""

from __future__ import annotations

import numpy as np
from drawing.canvas import GREY
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from skimage.color import hsv2rgb

from keras_unet import weight_map
from keras_unet.data import make_cells
from keras_unet.weight_maps import separate_cells

W0, SIGMA, SEPARATION = 10.0, 5.0, 2


def draw_border_weight() -> Figure:
    """Image, labels as drawn, labels with a line between cells that touch, the weights."""
    image, labels = make_cells(112, seed=11, diameter=34.0, coverage=0.75)
    weights = weight_map(
        labels, w0=W0, sigma=SIGMA, class_weights="balanced", separation=SEPARATION
    )
    panels = (
        ("image", "membranes are dark and thin"),
        ("labels", "cells touch: one white blob as a mask"),
        (f"separated by {SEPARATION} pixels", "the background line to be learned"),
        ("weight map", f"w0 = {W0:g}, σ = {SIGMA:g} pixels"),
    )
    figure = Figure(figsize=(13, 3.7), layout="constrained")
    all_axes = figure.subplots(1, 4)
    cells = _colors(int(labels.max()))
    pictures = (image, labels, separate_cells(labels, SEPARATION), weights)
    for axes, picture, (title, below) in zip(all_axes, pictures, panels, strict=True):
        axes.set_title(title, fontsize=11)
        axes.set_xlabel(below, fontsize=9, color=GREY)
        axes.set_xticks([])
        axes.set_yticks([])
        if picture is image:
            axes.imshow(picture, cmap="gray")
        elif picture is weights:
            shown = axes.imshow(picture, cmap="magma", vmin=0)
            figure.colorbar(shown, ax=axes, label="weight of a pixel", shrink=0.85)
        else:
            axes.imshow(picture, cmap=cells, interpolation="nearest", vmin=0, vmax=labels.max())
    return figure


def _colors(count: int) -> ListedColormap:
    """Black for the background, then hues far apart for neighbouring numbers."""
    hue = (np.arange(count) * 0.618) % 1.0
    hsv = np.stack([hue, np.full(count, 0.55), np.full(count, 0.95)], axis=-1)
    return ListedColormap([(0, 0, 0), *map(tuple, hsv2rgb(hsv))])
