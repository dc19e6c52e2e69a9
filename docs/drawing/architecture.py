"""The U, drawn from a real model: a box for each feature map, an arrow for each operation."""

from __future__ import annotations

from typing import NamedTuple

import keras
from drawing.canvas import BLUE, GREEN, GREY, ORANGE, RED, SKY, arrow, write
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

GAP = 0.9  # between two boxes of a level
BELOW = 1.5  # between two levels
LEGEND = (
    (BLUE, "-", "convolution 3×3, ReLU"),
    (RED, "-", "max pooling 2×2"),
    (ORANGE, "-", "up-convolution 2×2"),
    (GREY, "--", "skip connection: crop, copy"),
    (GREEN, "-", "convolution 1×1"),
)


class FeatureMap(NamedTuple):
    """The output of one layer."""

    layer: str
    kind: str  # class name of the layer
    level: int  # 1 at full resolution
    size: int  # height = width, pixels
    channels: tuple[int, ...]  # two numbers for a concatenation: of the skip, of the up-convolution


class Box(NamedTuple):
    left: float
    right: float
    bottom: float
    top: float

    @property
    def middle(self) -> tuple[float, float]:
        return (self.left + self.right) / 2, (self.bottom + self.top) / 2


def feature_maps(model: keras.Model) -> list[FeatureMap]:
    """The feature maps of a model of `build_unet` with a square input, in order of computation."""
    depth = sum(layer.name.endswith("_pool") for layer in model.layers)
    maps = []
    for layer in model.layers:
        kind, name = type(layer).__name__, layer.name
        if kind not in ("InputLayer", "Conv2D", "MaxPooling2D", "Concatenate"):
            continue  # crop and up-convolution are the two parts of their concatenation
        if name.startswith("bridge"):
            level = depth + 1
        elif name.startswith(("down", "up")):
            level = int(name.split("_")[0].strip("downup")) + (kind == "MaxPooling2D")
        else:
            level = 1
        parts = layer.input if kind == "Concatenate" else [layer.output]
        channels = tuple(part.shape[-1] for part in parts)
        maps.append(FeatureMap(name, kind, level, layer.output.shape[1], channels))
    return maps


def draw_architecture(model: keras.Model) -> Figure:
    """The picture of a model of `build_unet` with a given, square input size."""
    maps = feature_maps(model)
    boxes = _place(maps)
    figure = Figure(figsize=(12, 5.8), layout="constrained")
    axes = figure.add_subplot()
    for before, m in zip([None, *maps], maps, strict=False):
        box = boxes[m.layer]
        _draw_box(axes, m, box)
        if before is not None:
            _connect(axes, m, boxes[before.layer], box)
        if m.kind == "Concatenate":
            cut = model.get_layer(f"up{m.level}_crop").cropping[0][0]
            skip = boxes[f"down{m.level}_conv2"]
            y = skip.middle[1]
            arrow(axes, (skip.right, y), (box.left, y), GREY, "--")
            write(axes, (skip.right + box.left) / 2, y + 0.28, f"crop {cut} each side", color=GREY)
    _decorate(axes, boxes)
    return figure


def _place(maps: list[FeatureMap]) -> dict[str, Box]:
    """A box for each map: its height grows with the size, its width with the channels."""
    middles, y = {}, 0.0
    for level in sorted({m.level for m in maps}):
        half = _height(max(m.size for m in maps if m.level == level)) / 2
        middles[level] = y - half
        y -= 2 * half + BELOW
    boxes: dict[str, Box] = {}
    x = 0.0
    for before, m in zip([None, *maps], maps, strict=False):
        if before is not None:  # to the right of the box before, or straight below or above it
            last = boxes[before.layer]
            x = last.right + GAP if m.kind == "Conv2D" else last.left
        y, half = middles[m.level], _height(m.size) / 2
        boxes[m.layer] = Box(x, x + sum(map(_width, m.channels)), y - half, y + half)
    return boxes


def _height(size: int) -> float:
    return 0.11 * size**0.5


def _width(channels: int) -> float:
    return max(0.05 * channels**0.5, 0.12)


def _draw_box(axes: Axes, m: FeatureMap, box: Box) -> None:
    x, height = box.left, box.top - box.bottom
    for index, channels in enumerate(m.channels):
        face = "white" if index == 0 and len(m.channels) == 2 else SKY  # white: the skip's copy
        axes.add_patch(Rectangle((x, box.bottom), _width(channels), height, fc=face, ec=BLUE))
        x += _width(channels)
    label = " + ".join(str(c) for c in m.channels)
    write(axes, box.middle[0], box.top + 0.1, label, va="bottom")
    write(axes, box.middle[0], box.bottom - 0.1, f"{m.size}²", va="top", color=GREY)


def _connect(axes: Axes, m: FeatureMap, start: Box, end: Box) -> None:
    """The arrow of the operation that made `m`."""
    if m.kind == "Conv2D":
        y = end.middle[1]
        color = GREEN if m.layer == "logits" else BLUE
        arrow(axes, (start.right, y), (end.left, y), color)
    elif m.kind == "MaxPooling2D":
        x = start.middle[0]
        arrow(axes, (x, start.bottom - 0.52), (x, end.top + 0.52), RED)
    else:
        x = start.middle[0]
        arrow(axes, (x, start.top + 0.52), (x, end.bottom - 0.52), ORANGE)


def _decorate(axes: Axes, boxes: dict[str, Box]) -> None:
    """The names of the three parts, and the legend."""
    right = max(box.right for box in boxes.values())
    bridge = boxes["bridge_conv1"]
    low = bridge.middle[1]
    write(axes, 0.0, low, "contracting path", size=12, ha="left")
    write(axes, bridge.middle[0], bridge.bottom - 0.95, "bridge", size=12)
    write(axes, right, low, "expansive path", size=12, ha="right")
    for color, line, label in LEGEND:
        axes.plot([], [], color=color, ls=line, lw=2, label=label)
    axes.legend(loc="upper center", ncols=len(LEGEND), frameon=False, bbox_to_anchor=(0.5, 0.0))
    axes.set(xlim=(-0.5, right + 0.5), ylim=(bridge.bottom - 1.2, 0.7), aspect="equal")
    axes.axis("off")
