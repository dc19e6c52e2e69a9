"""Distances from every background pixel to its two nearest cells: exact, in linear time.

A distance transform per cell costs cells × pixels. Here the two nearest *different* labels are
found by separable passes over the pixels, so that the number of cells does not enter:

1. down and up each column: the nearest label (`owner`), its distance g1, and the distance g2 to the
   nearest pixel of any other label;
2. along each row, over the columns within reach, dx pixels away: the nearest cell has the smallest
   dx² + g1²; the second nearest the smallest of dx² + g1² over columns owned by another cell, and
   of dx² + g2² over all columns.

Step 2 is exact: the two nearest labels overall are among the two nearest of their columns, and g2
may be read from every column because g2 >= g1 wherever the owner is another cell.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

# Rows × columns done at a time: small enough that each array stays in the first caches.
_TILE = (512, 64)


def two_nearest(labels: np.ndarray, reach: float) -> tuple[np.ndarray, np.ndarray]:
    """Distances d1 <= d2 of each background pixel to the nearest and second nearest cell.

    Args:
        labels: integers [H, W] >= 0, one value a cell, 0 = background.
        reach: pixels; only pixels with d1 + d2 <= reach are looked for.

    Returns:
        (d1, d2), float32 [H, W] in pixels, between pixel centres: a pixel beside a cell has 1. Both
        are infinite on cells and where d1 + d2 > reach.
    """
    height, width = labels.shape
    d1 = np.full((height, width), np.inf, np.float32)
    d2 = np.full((height, width), np.inf, np.float32)
    # No background pixel is nearer to a cell than 1, hence d2 <= reach - 1; and d1 <= reach / 2.
    longest = math.ceil(math.hypot(height, width))
    near, far = (math.floor(min(d, longest)) for d in (reach / 2, reach - 1))
    if near < 1 or far < 1 or not labels.any():
        return d1, d2
    labels = _narrow(labels)
    none = far + 1  # stands for "no cell": more than any distance that is looked for
    first, owner, second = _columns(labels, none)
    side = min(far, width)
    sides = ((0, 0), (side, side))
    first = np.pad(first, sides, mode="constant", constant_values=none)
    second = np.pad(second, sides, mode="constant", constant_values=none)
    owner = np.pad(owner, sides)
    for top in range(0, height, _TILE[0]):
        for left in range(0, width, _TILE[1]):
            rows = slice(top, top + _TILE[0])
            columns = slice(left, left + _TILE[1])
            around = (rows, slice(left, min(left + _TILE[1], width) + 2 * side))
            squares = _rows(first[around].T, owner[around].T, second[around].T, near, side)
            if squares is None:
                continue
            one, two = np.sqrt(squares[0].T, dtype=np.float32), np.sqrt(squares[1].T)
            found = (labels[rows, columns] == 0) & (two < none) & (one + two <= reach)
            d1[rows, columns][found] = one[found]
            d2[rows, columns][found] = two[found]
    return d1, d2


def _narrow(labels: np.ndarray) -> np.ndarray:
    """The same cells, renumbered if need be, in the smaller of uint16 and int32 that holds them."""
    top = int(labels.max())
    if top > np.iinfo(np.int32).max:
        values, inverse = np.unique(labels, return_inverse=True)
        labels = inverse.reshape(labels.shape) + int(values[0] != 0)
        top = len(values)
    return labels.astype(np.uint16 if top <= np.iinfo(np.uint16).max else np.int32, copy=False)


def _columns(labels: np.ndarray, cap: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Within each column: (g1, owner, g2), distances counted up to `cap`."""
    # uint16 holds the sums of two squares of step 2 for every usual sigma, and is twice as fast.
    number = np.uint16 if 2 * cap * cap < np.iinfo(np.uint16).max else np.uint32
    first = np.empty(labels.shape, number)
    owner = np.empty_like(labels)
    second = np.empty(labels.shape, number)
    for y, (g1, label, g2) in _sweep(labels, cap, number, downwards=True):
        first[y], owner[y], second[y] = g1, label, g2
    for y, (g1, label, g2) in _sweep(labels, cap, number, downwards=False):
        above, below = first[y], g1
        other = np.where(owner[y] != label, np.maximum(above, below), cap)
        np.minimum(second[y], g2, out=second[y])
        np.minimum(second[y], other, out=second[y])
        np.copyto(owner[y], label, where=below < above)
        np.minimum(above, below, out=first[y])
    return first, owner, second


def _sweep(
    labels: np.ndarray, cap: int, number: type, *, downwards: bool
) -> Iterator[tuple[int, tuple[np.ndarray, np.ndarray, np.ndarray]]]:
    """Row by row: distance to the last label of each column, the label, distance to another."""
    rows, width = labels.shape
    g1: np.ndarray = np.full(width, cap, number)
    g2: np.ndarray = np.full(width, cap, number)
    last = np.zeros(width, labels.dtype)
    for y in range(rows) if downwards else range(rows - 1, -1, -1):
        np.minimum(g1 + 1, cap, out=g1)
        np.minimum(g2 + 1, cap, out=g2)
        row = labels[y]
        cell = row != 0
        np.copyto(g2, g1, where=cell & (row != last))
        np.copyto(last, row, where=cell)
        np.copyto(g1, 0, where=cell)
        yield y, (g1, last, g2)


def _rows(
    first: np.ndarray, owner: np.ndarray, second: np.ndarray, near: int, side: int
) -> tuple[np.ndarray, np.ndarray] | None:
    """Step 2 for one tile, laid out [x, y] so that a shift along x is a contiguous view.

    Args:
        first, owner, second: [w + 2·side, h], the tile's columns and `side` more on either side.
        near: distances d1 above this are not looked for.

    Returns:
        (d1², d2²), each [w, h] (large where nothing is near), or None if no cell is near.
    """
    owner = np.ascontiguousarray(owner)
    high = int(owner.max())
    if high == 0:
        return None
    width, size = len(owner) - 2 * side, len(owner)
    # `order` counts: NumPy multiplies in the layout of its input, which here is the transposed one.
    g1 = np.multiply(first, first, order="C")
    g2 = np.multiply(second, second, order="C")

    # Distance and label packed into one integer: a minimum then finds both.
    bits = high.bit_length()
    largest = (int(g1.max()) + near * near + 1) << bits
    wide = np.int32 if largest <= np.iinfo(np.int32).max else np.int64
    packed = np.left_shift(g1.astype(wide), bits) | owner
    nearest = packed[side : size - side].copy()
    buffer = np.empty_like(nearest)
    for dx in range(1, min(near, side) + 1):
        for start in (side - dx, side + dx):
            np.add(packed[start : start + width], (dx * dx) << bits, out=buffer)
            np.minimum(nearest, buffer, out=nearest)
    cell = (nearest & ((1 << bits) - 1)).astype(owner.dtype)
    nearest >>= bits
    if not ((nearest > 0) & (nearest <= near * near)).any():
        return None

    best = np.full_like(g2[:width], np.iinfo(g2.dtype).max)
    same = np.empty(best.shape, bool)
    square = np.empty_like(best)
    blocked = square.view(np.int16 if square.dtype == np.uint16 else np.int32)
    for dx in range(-side, side + 1):
        part = slice(side + dx, side + dx + width)
        np.equal(owner[part], cell, out=same)
        np.negative(same.view(np.int8), out=blocked)  # all bits set where the owner is `cell`
        np.bitwise_or(square, g1[part], out=square)
        np.minimum(square, g2[part], out=square)
        square += dx * dx
        np.minimum(best, square, out=best)
    return nearest, best
