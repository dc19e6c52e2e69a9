"""Objects drawn over their image, each with outline and number, for a person to check."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from keras_unet.evaluation.pictures import Entry, to_rgb
from keras_unet.inference.objects.measurements import Table
from keras_unet.inference.objects.polygons import Outline
from keras_unet.pictures import class_color

_SMALLEST_NUMBERED = 14  # pixels across in the picture: smaller objects get no number
_BRIGHT = 5  # so many colours are bright enough for numbers on a dark image
_BACKGROUND, _INSIDE = 16, 80  # grey values without an image
LEGEND = (
    Entry(None, "one outline: one object, numbered as in the tables"),
    Entry(None, "colours only tell neighbours apart"),
)


def object_picture(
    instances: np.ndarray,
    outlines: Sequence[Outline],
    table: Table,
    image: np.ndarray | None = None,
    *,
    longest: int = 2048,
    enlarged: int = 1024,
) -> np.ndarray:
    """Draws outlines in five colours in turn, so that touching objects are told apart.

    Args:
        instances: [H, W]. outlines, table: of them, in equal order.
        image: [H, W] or [H, W, C]; without it the objects are grey on black.
        longest: pixels of the longer side at most; larger images are scaled down.
        enlarged: smaller ones are enlarged by a whole number, up to so many pixels.

    Returns:
        uint8 [h, w, 3].
    """
    height, width = instances.shape
    step = -(-max(height, width) // longest)
    if image is None:
        grey = np.where(instances[::step, ::step] > 0, np.uint8(_INSIDE), np.uint8(_BACKGROUND))
        pixels = np.repeat(grey[..., None], 3, axis=2)
    else:
        pixels = to_rgb(np.asarray(image)[::step, ::step])
    times = 1 if step > 1 else max(1, min(8, enlarged // max(height, width)))
    picture = Image.fromarray(pixels.repeat(times, axis=0).repeat(times, axis=1))
    scale = times / step
    draw = ImageDraw.Draw(picture)
    for outline in outlines:
        color = _color(outline.label)
        for polygon in outline.polygons:
            for ring in polygon:
                points = (np.vstack([ring, ring[:1]]) * scale).ravel().tolist()
                draw.line(points, fill=color, width=1 + (times > 2))
    _write_numbers(draw, table, scale)
    return np.asarray(picture)


def _write_numbers(draw: ImageDraw.ImageDraw, table: Table, scale: float) -> None:
    across = table["equivalent_diameter_px"] * scale
    shown = np.flatnonzero(across >= _SMALLEST_NUMBERED)
    if not shown.size:
        return
    size = float(np.clip(0.45 * np.median(across[shown]), 9, 22))
    font = ImageFont.load_default(size)
    for row in shown.tolist():
        label = int(table["label"][row])
        at = tuple((table[f"centroid_{axis}_px"][row] + 0.5) * scale for axis in "xy")
        draw.text(
            at,
            str(label),
            fill=_color(label),
            font=font,
            anchor="mm",
            stroke_width=1,
            stroke_fill=(0, 0, 0),
        )


def _color(label: int) -> tuple[int, ...]:
    return tuple(class_color(1 + label % _BRIGHT).tolist())
