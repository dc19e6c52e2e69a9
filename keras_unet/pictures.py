"""How images and classes are shown to a person."""

from __future__ import annotations

import numpy as np

# Okabe & Ito 2008: told apart by colour-blind readers too; the background's first
COLORS = np.array(
    [
        *((0, 0, 0), (230, 159, 0), (86, 180, 233), (0, 158, 115)),
        *((240, 228, 66), (213, 94, 0), (0, 114, 178), (204, 121, 167)),
    ],
    np.uint8,
)


def class_color(classes: np.ndarray | int) -> np.ndarray:
    """The colours of foreground classes, numbers from 1 on, in turn: uint8 [..., 3]."""
    return COLORS[1 + (np.asarray(classes) - 1) % (len(COLORS) - 1)]


def contrast(image: np.ndarray) -> tuple[float, float]:
    """The values that are shown black and white.

    8-bit RGB is shown as it is, from 0 to 255; anything else from the 0.5 to the 99.5 percent of
    all its values, since 16-bit and float images would be black, and dim ones nearly so.

    Args:
        image: [H, W, C] of any real type.
    """
    if image.dtype == np.uint8 and image.shape[-1] in (3, 4):
        return 0.0, 255.0
    low, high = np.percentile(image.astype(np.float32), [0.5, 99.5])
    return float(low), float(high)
