"""Small pictures for a report: the image, and on a layer of its own what is wrong in it."""

from __future__ import annotations

import heapq
import io
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from skimage.measure import block_reduce

from keras_unet.evaluation.pictures import MARKS, error_marks, to_rgb


class Thumbnail(NamedTuple):
    """A picture in two layers of one size: `image` as JPEG, `errors` as PNG, both as bytes."""

    width: int
    height: int
    image: bytes
    errors: bytes


def thumbnail(image: np.ndarray, classes: np.ndarray, truth: np.ndarray, longest: int) -> Thumbnail:
    """Scales an image and its errors down to at most `longest` pixels a side.

    A pixel of the result stands for n × n pixels: their mean grey value, and the worst of their
    marks, so that a thin error does not vanish.

    Args:
        image: [H, W, C]. classes, truth: int [H, W], truth -1 = ignored.
    """
    step = max(1, -(-max(truth.shape) // longest))
    base = Image.fromarray(to_rgb(image)).reduce(step)
    marks = block_reduce(error_marks(classes, truth), (step, step), np.max)
    layer = Image.fromarray(marks, mode="P")
    palette, alpha = [0, 0, 0], [0]
    for mark in MARKS:
        palette += mark.color
        alpha.append(round(255 * mark.strength))
    layer.putpalette(palette)
    return Thumbnail(
        base.width,
        base.height,
        _encoded(base, format="JPEG", quality=85),
        _encoded(layer, format="PNG", transparency=bytes(alpha)),
    )


class Gallery:
    """The thumbnails of the worst images: memory is bounded whatever their number."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._heap: list[tuple[float, int, str, Thumbnail]] = []
        self._added = 0

    def add(self, name: str, badness: float, picture: Thumbnail) -> None:
        """Keeps a picture, at the cost of the least bad one where there are too many."""
        self._added += 1
        entry = (badness, -self._added, name, picture)
        if len(self._heap) < self._most:
            heapq.heappush(self._heap, entry)
        else:
            heapq.heappushpop(self._heap, entry)

    def pictures(self) -> dict[str, Thumbnail]:
        """By image name, worst first."""
        return {name: picture for _, _, name, picture in sorted(self._heap, reverse=True)}


def longest_side(images: int) -> int:
    """Pixels of a thumbnail's longer side, so that a page of so many stays below about 20 MB."""
    return 640 if images <= 40 else 384 if images <= 120 else 256


def _encoded(picture: Image.Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, **options)
    return buffer.getvalue()
