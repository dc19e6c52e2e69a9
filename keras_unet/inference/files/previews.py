"""Overlays that a person can open, however large the image is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from keras_unet.data.nodata import filled
from keras_unet.evaluation.pictures import Entry, class_entries, overlay
from keras_unet.inference.files.scratch import Scratch
from keras_unet.inference.source import Source, missing_of

_STRIP_BYTES = 1 << 26


def preview(
    source: Source, classes: Scratch, page: int, names: Sequence[str], longest: int = 2048
) -> tuple[np.ndarray, list[Entry]]:
    """A mask over its image, scaled down by a whole number, uint8 [h, w, 3], and its legend.

    The image is averaged over squares; of the mask every so many-th pixel is taken.

    Args:
        source: the image.
        classes: class numbers, one plane a page.
        page: of the image.
        names: of the classes.
        longest: pixels of the longer side at most.
    """
    height, width, channels = source.shape
    step = min(-(-max(height, width) // longest), height, width)
    h, w = height // step, width // step
    exact = step == 1 or source.dtype.kind in "iu"  # 8-bit RGB stays what it is
    image = np.empty((h, w, channels), source.dtype if exact else np.float32)
    rows = max(1, _STRIP_BYTES // (width * channels * 4 * step))
    for top in range(0, h, rows):
        bottom = min(top + rows, h)
        window = slice(top * step, bottom * step), slice(0, w * step)
        strip = source.read(*window)
        strip = filled(strip, missing_of(source, *window, strip))
        if step > 1:
            squares = strip.reshape(bottom - top, step, w, step, channels)
            strip = squares.mean((1, 3), dtype=np.float32)
        image[top:bottom] = strip
    mask = classes.read(page, 0, slice(0, h * step), step)[:, :w]
    return overlay(image, mask.astype(np.int32)), class_entries(mask, names)
