"""Plot of a U-Net as in the paper's figure 1: a box for each feature map, an arrow for each step.

`feature_maps` reads the stages of any network of `build_unet`, whatever its depth and padding;
`place` puts them in the shape of a U, for the picture as for the page of `keras-unet explore`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import keras

from keras_unet import geometry
from keras_unet.errors import ConfigError
from keras_unet.models.unet import structure, unet_in

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Kind = Literal["image", "convolution", "pooling", "concatenation", "logits"]
# Okabe & Ito 2008: told apart by colour-blind readers too
BLUE, ORANGE, GREEN, RED, SKY, GREY = (
    *("#0072B2", "#E69F00", "#009E73", "#D55E00"),
    *("#9CCBEA", "#5F5F5F"),
)
_USUAL_OUTPUT = 388  # pixels of the paper's tile
_SUFFIXES = (".png", ".svg", ".pdf")


class FeatureMap(NamedTuple):
    """The output of one step of the network, after its activation.

    layer: name of the layer that makes it.
    kind: of that step. "concatenation" stands for the up-convolution and the skip's crop too.
    level: 1 at full resolution; the bridge is at depth + 1.
    size: height and width, pixels.
    channels: two numbers for a concatenation: of the skip, of the up-convolution.
    crop: pixels cut from each side of the skip; 0 for other kinds and for padding "same".
    """

    layer: str
    kind: Kind
    level: int
    size: tuple[int, int]
    channels: tuple[int, ...]
    crop: int = 0


class Box(NamedTuple):
    """A rectangle; y grows upwards."""

    left: float
    right: float
    bottom: float
    top: float

    @property
    def middle(self) -> tuple[float, float]:
        """x and y of its centre."""
        return (self.left + self.right) / 2, (self.bottom + self.top) / 2


def feature_maps(model: keras.Model, size: int | tuple[int, int] | None = None) -> list[FeatureMap]:
    """The feature maps of a network, in order of computation.

    Args:
        model: of `build_unet`.
        size: of the input, an int or (height, width). None: that of the model; where the model
            takes any, 572 at depth 4: the one whose output is 388 pixels or a little more.

    Raises:
        ConfigError: no model of `build_unet`, or a size that it does not take.
    """
    form = structure(model)
    if size is None:
        usual = geometry.input_size(_USUAL_OUTPUT, form.depth, form.padding)
        size = tuple(known or usual for known in model.input_shape[1:3])  # type: ignore[assignment]
    height, width = (size, size) if isinstance(size, int) else size  # type: ignore[misc]
    for one, known in zip((height, width), model.input_shape[1:3], strict=True):
        geometry.output_size(one, form.depth, form.padding)
        if known not in (None, one):
            raise ConfigError(f"size is {size}; this model takes {model.input_shape[1:3]} only")
    lost = 2 if form.padding == "valid" else 0
    crops = geometry.crops(form.depth, form.padding)[::-1]

    def convolutions(name: str, level: int, sizes: list[int]) -> None:
        for number in (1, 2):
            sizes[:] = [n - lost for n in sizes]
            layer = f"{name}_conv{number}"
            channels = model.get_layer(layer).filters
            maps.append(FeatureMap(layer, "convolution", level, (sizes[0], sizes[1]), (channels,)))

    maps = [FeatureMap("image", "image", 1, (height, width), (form.channels,))]
    now, skips = [height, width], []
    for level in range(1, form.depth + 1):
        convolutions(f"down{level}", level, now)
        skips.append(maps[-1])
        now = [-(-n // 2) for n in now]
        maps.append(
            FeatureMap(
                f"down{level}_pool", "pooling", level + 1, (now[0], now[1]), skips[-1].channels
            )
        )
    convolutions("bridge", form.depth + 1, now)
    for level in range(form.depth, 0, -1):
        skip, crop = skips[level - 1], crops[level - 1]
        now = [n - 2 * crop for n in skip.size]
        channels = (*skip.channels, model.get_layer(f"up{level}_upconv").filters)
        name = f"up{level}_concat"
        maps.append(FeatureMap(name, "concatenation", level, (now[0], now[1]), channels, crop))
        convolutions(f"up{level}", level, now)
    maps.append(FeatureMap("logits", "logits", 1, (now[0], now[1]), (form.num_classes,)))
    return maps


def place(
    maps: Sequence[FeatureMap],
    *,
    height: Callable[[FeatureMap], float],
    width: Callable[[FeatureMap], float],
    gap: float,
    below: float,
) -> dict[str, Box]:
    """A box for each map, by its layer's name, in the shape of a U.

    Args:
        height, width: of a map's box.
        gap: between two boxes of a level.
        below: between two levels.
    """
    middles, y = {}, 0.0
    for level in sorted({m.level for m in maps}):
        half = max(height(m) for m in maps if m.level == level) / 2
        middles[level] = y - half
        y -= 2 * half + below
    boxes: dict[str, Box] = {}
    x = 0.0
    for before, m in zip([None, *maps], maps, strict=False):
        if before is not None:  # to the right of the box before, or straight below or above it
            last = boxes[before.layer]
            x = last.left if m.kind in ("pooling", "concatenation") else last.right + gap
        y, half = middles[m.level], height(m) / 2
        boxes[m.layer] = Box(x, x + width(m), y - half, y + half)
    return boxes


def plot_unet(
    model: keras.Model,
    to_file: str | Path | None = None,
    *,
    size: int | tuple[int, int] | None = None,
    dpi: int = 100,
) -> Figure:
    """Draws a network of `build_unet` as in the paper's figure 1; needs no Graphviz.

    >>> plot_unet(build_unet(filters=16, depth=3, padding="same"), to_file="unet.svg")

    Args:
        model: any network of `build_unet`, or a model that contains one.
        to_file: where to write it: .png, .svg or .pdf; None writes nothing.
        size: of the input, see `feature_maps`.
        dpi: pixels an inch, of a PNG.

    Returns:
        A `matplotlib.figure.Figure`, which a notebook shows.

    Raises:
        ConfigError: no model of `build_unet`, a size that it does not take, or another suffix.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    path = None if to_file is None else Path(to_file)
    if path is not None and path.suffix.lower() not in _SUFFIXES:
        raise ConfigError(f"to_file is {path}; expected a name that ends in .png, .svg or .pdf")
    maps = feature_maps(unet_in(model), size)
    boxes = place(maps, height=_height, width=_width, gap=0.9, below=1.5)
    figure = Figure(figsize=(12, 5.8), layout="constrained")
    axes = figure.add_subplot()
    for before, m in zip([None, *maps], maps, strict=False):
        box = boxes[m.layer]
        _draw_box(axes, m, box)
        if before is not None:
            _connect(axes, m, boxes[before.layer], box)
        if m.kind == "concatenation":
            skip = boxes[f"down{m.level}_conv2"]
            y = skip.middle[1]
            _arrow(axes, (skip.right, y), (box.left, y), GREY, "--")
            text = f"crop {m.crop} each side" if m.crop else "copy"
            _write(axes, (skip.right + box.left) / 2, y + 0.28, text, color=GREY)
    _decorate(axes, boxes, any(m.crop for m in maps))
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with rc_context({"svg.fonttype": "none"}):  # text that can be searched and read out
            figure.savefig(path, dpi=dpi)
    return figure


def _height(m: FeatureMap) -> float:
    return max(0.11 * m.size[0] ** 0.5, 0.2)


def _width(m: FeatureMap) -> float:
    return sum(map(_part, m.channels))


def _part(channels: int) -> float:
    return max(0.05 * channels**0.5, 0.12)


def _draw_box(axes: Axes, m: FeatureMap, box: Box) -> None:
    from matplotlib.patches import Rectangle

    x, height = box.left, box.top - box.bottom
    for index, channels in enumerate(m.channels):
        face = "white" if index == 0 and len(m.channels) == 2 else SKY  # white: the skip's copy
        axes.add_patch(Rectangle((x, box.bottom), _part(channels), height, fc=face, ec=BLUE))
        x += _part(channels)
    _write(axes, box.middle[0], box.top + 0.1, " + ".join(map(str, m.channels)), va="bottom")
    rows, columns = m.size
    text = f"{rows}²" if rows == columns else f"{rows}×{columns}"
    _write(axes, box.middle[0], box.bottom - 0.1, text, va="top", color=GREY)


def _connect(axes: Axes, m: FeatureMap, start: Box, end: Box) -> None:
    """The arrow of the operation that made `m`."""
    x = start.middle[0]
    if m.kind == "pooling":
        _arrow(axes, (x, start.bottom - 0.52), (x, end.top + 0.52), RED)
    elif m.kind == "concatenation":
        _arrow(axes, (x, start.top + 0.52), (x, end.bottom - 0.52), ORANGE)
    else:
        y = end.middle[1]
        _arrow(axes, (start.right, y), (end.left, y), GREEN if m.kind == "logits" else BLUE)


def _decorate(axes: Axes, boxes: dict[str, Box], cropped: bool) -> None:
    """The names of the three parts, and the legend."""
    right = max(box.right for box in boxes.values())
    bridge = boxes["bridge_conv1"]
    low = bridge.middle[1]
    _write(axes, 0.0, low, "contracting path", size=12, ha="left")
    _write(axes, bridge.middle[0], bridge.bottom - 0.95, "bridge", size=12)
    _write(axes, right, low, "expansive path", size=12, ha="right")
    legend = (
        (BLUE, "-", "convolution 3×3, ReLU"),
        (RED, "-", "max pooling 2×2"),
        (ORANGE, "-", "up-convolution 2×2"),
        (GREY, "--", "skip connection: crop, copy" if cropped else "skip connection: copy"),
        (GREEN, "-", "convolution 1×1"),
    )
    for color, line, label in legend:
        axes.plot([], [], color=color, ls=line, lw=2, label=label)
    axes.legend(loc="upper center", ncols=len(legend), frameon=False, bbox_to_anchor=(0.5, 0.0))
    axes.set(xlim=(-0.5, right + 0.5), ylim=(bridge.bottom - 1.2, 0.7), aspect="equal")
    axes.axis("off")


def _write(axes: Axes, x: float, y: float, text: str, size: float = 8.5, **style: Any) -> None:
    """Text at (x, y), centred unless `ha` and `va` say otherwise."""
    axes.text(x, y, text, **{"ha": "center", "va": "center", "fontsize": size, **style})


def _arrow(
    axes: Axes, start: tuple[float, float], end: tuple[float, float], color: str, line: str = "-"
) -> None:
    style = {"arrowstyle": "-|>", "color": color, "lw": 1.5, "ls": line, "mutation_scale": 9}
    axes.annotate("", end, start, arrowprops={**style, "shrinkA": 1, "shrinkB": 1})
