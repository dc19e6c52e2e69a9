"""Orientation of stored pixels: what a file states, and pixels turned as they are displayed.

Source: TIFF 6.0, section 8 (tag 274, Orientation); EXIF has the same numbers. 1 is upright, 2 to
4 are mirrored or turned by half, 5 to 8 exchange rows and columns.
"""

from __future__ import annotations

from typing import Any

import numpy as np

UPRIGHT = 1
_TAG = 274
# Where the image's first row and first column end up on the other side, after any transposition.
_BOTTOM_FIRST, _RIGHT_FIRST = (3, 4, 7, 8), (2, 3, 6, 7)


def stated(value: Any) -> int:
    """The orientation that a tag's value means: 1 to 8; anything else is upright."""
    number = value[0] if isinstance(value, tuple) and value else value
    return int(number) if isinstance(number, int) and 1 <= number <= 8 else UPRIGHT


def of_page(page: Any) -> int:
    """Orientation of a page of a TIFF file, 1 to 8.

    Args:
        page: tifffile's; a page of its own, not a frame that stands for one.
    """
    return stated(page.tags.valueof(_TAG, UPRIGHT))


def upright(array: np.ndarray, orientation: int) -> np.ndarray:
    """Stored pixels [H, W, ...] as they are displayed; H and W change places from 5 on."""
    array = array.swapaxes(0, 1) if orientation >= 5 else array
    array = array[::-1] if orientation in _BOTTOM_FIRST else array
    return array[:, ::-1] if orientation in _RIGHT_FIRST else array


def upright_shape(shape: tuple[int, int, int], orientation: int) -> tuple[int, int, int]:
    """What stored pixels of `shape` (H, W, C) have once displayed."""
    height, width, channels = shape
    return (width, height, channels) if orientation >= 5 else shape


def stored_window(
    rows: slice, columns: slice, shape: tuple[int, int, int], orientation: int
) -> tuple[slice, slice]:
    """Rows and columns, as stored, of a window of what is displayed.

    Args:
        rows, columns: of the displayed image; 0 <= start < stop <= size.
        shape: (H, W, C) as displayed.
    """
    if orientation in _BOTTOM_FIRST:
        rows = slice(shape[0] - rows.stop, shape[0] - rows.start)
    if orientation in _RIGHT_FIRST:
        columns = slice(shape[1] - columns.stop, shape[1] - columns.start)
    return (columns, rows) if orientation >= 5 else (rows, columns)
