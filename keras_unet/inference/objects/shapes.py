"""Shapes of objects from their runs: moments, perimeter and convex hull, all objects at once."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from keras_unet.inference.objects.runs import Runs, row_bands


class Extents(NamedTuple):
    """Boxes of the objects, int64: rows top … bottom - 1, columns left … right - 1."""

    top: np.ndarray
    left: np.ndarray
    bottom: np.ndarray
    right: np.ndarray


class Moments(NamedTuple):
    """Area in pixels (int64), centroid, and variances and covariance of the pixel centres."""

    area: np.ndarray
    y: np.ndarray
    x: np.ndarray
    yy: np.ndarray
    xx: np.ndarray
    xy: np.ndarray


def extents(runs: Runs, place: np.ndarray, count: int) -> Extents:
    """The box of each of `count` objects; `place` [N] says whose each run is."""
    huge = np.iinfo(np.int64).max
    top, left = np.full(count, huge), np.full(count, huge)
    bottom, right = np.zeros(count, np.int64), np.zeros(count, np.int64)
    np.minimum.at(top, place, runs.row)
    np.minimum.at(left, place, runs.start)
    np.maximum.at(bottom, place, runs.row + 1)
    np.maximum.at(right, place, runs.stop)
    return Extents(top, left, bottom, right)


def moments(runs: Runs, place: np.ndarray, box: Extents) -> Moments:
    """Sums over a run's pixels in closed form, from the box's corner: integers, hence exact."""
    count = box.top.size
    length = runs.length
    y = runs.row - box.top[place]
    low = runs.start - box.left[place]
    high = low + length - 1

    def total(values: np.ndarray) -> np.ndarray:
        return np.bincount(place, values, count)

    area = total(length)
    sum_x = (low + high) * length // 2
    squares = _sum_of_squares(high) - _sum_of_squares(low - 1)
    mean_y, mean_x = total(y * length) / area, total(sum_x) / area
    return Moments(
        area.astype(np.int64),
        box.top + mean_y,
        box.left + mean_x,
        total(y * y * length) / area - mean_y**2,
        total(squares) / area - mean_x**2,
        total(y * sum_x) / area - mean_y * mean_x,
    )


def axes(shape: Moments, height: float = 1.0, width: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Major and minor axis of the ellipse with the object's second moments.

    Pixels count as squares, not points (+ 1/12, as in Matlab's regionprops), so that a disc's axes
    are its diameter and no axis is 0. `height`, `width`: of a pixel, in the unit of the result.
    """
    yy = (shape.yy + 1 / 12) * height**2
    xx = (shape.xx + 1 / 12) * width**2
    middle = (yy + xx) / 2
    apart = np.hypot((yy - xx) / 2, shape.xy * height * width)
    return 4 * np.sqrt(middle + apart), 4 * np.sqrt(np.maximum(middle - apart, 0))


class Crossings(NamedTuple):
    """How often lines along the rows, the columns and the two diagonals enter each object."""

    rows: np.ndarray
    columns: np.ndarray
    falling: np.ndarray
    rising: np.ndarray


def crossings(labels: np.ndarray, present: np.ndarray) -> Crossings:
    """Crossings of the objects `present` (ascending) of integer labels [H, W] >= 0."""
    counts = np.zeros((4, present.size), np.int64)
    neighbours = ((1, 0), (0, 1), (0, 0), (0, 2))  # left; above; above left; above right
    width = labels.shape[1]
    for rows in row_bands(labels.shape):
        block = np.zeros((rows.stop - rows.start + 1, width + 2), labels.dtype)
        skipped = int(rows.start == 0)
        block[skipped:, 1:-1] = labels[rows.start - 1 + skipped : rows.stop]
        own = block[1:, 1:-1]
        for number, (dy, dx) in enumerate(neighbours):
            other = block[dy : dy + own.shape[0], dx : dx + width]
            entered = own[(own != other) & (own > 0)]
            places = np.searchsorted(present, entered)
            counts[number] += np.bincount(places, minlength=present.size)
    return Crossings(*counts)


def perimeter(crossed: Crossings, height: float = 1.0, width: float = 1.0) -> np.ndarray:
    """Crofton's formula in four directions: less biased than counting pixel sides.

    Length = pi * sum over directions of weight * spacing of the lines * lines entered, where the
    weight is the share of all angles nearest to that direction (Legland et al. 2007, Image Anal
    Stereol 26). `height`, `width`: of a pixel, in the unit of the result.
    """
    slope = math.atan2(height, width) / math.pi
    across = height * width / math.hypot(height, width)
    return math.pi * (
        slope * height * crossed.rows
        + (0.5 - slope) * width * crossed.columns
        + 0.25 * across * (crossed.falling + crossed.rising)
    )


def hull_areas(runs: Runs, place: np.ndarray, count: int) -> np.ndarray:
    """Areas of the convex hulls of the objects' pixels, taken as squares; px², float64."""
    right = _bulge(place, runs.row, runs.stop, count)
    left = _bulge(place, runs.row, -runs.start, count)
    return right + left


def _bulge(place: np.ndarray, row: np.ndarray, x: np.ndarray, count: int) -> np.ndarray:
    """Areas between the y axis and the hulls' right sides, from the largest x in each row."""
    space = int(row.max(initial=0)) + 2
    corners = np.concatenate([place * space + row, place * space + row + 1])  # of the pixels' sides
    order = np.argsort(corners, kind="stable")
    corners, x = corners[order], np.concatenate([x, x])[order]
    first = np.flatnonzero(np.diff(corners, prepend=-1))
    x = np.maximum.reduceat(x, first) if first.size else x
    whose, y = np.divmod(corners[first], space)
    # A point on or inside the line between its neighbours is no corner of the hull, and corners
    # never are: all such points go at once, until none is left.
    while True:
        dy, dx = np.diff(y), np.diff(x)
        inner = (whose[:-2] == whose[1:-1]) & (whose[1:-1] == whose[2:])
        inside = inner & (dx[:-1] * dy[1:] <= dx[1:] * dy[:-1])
        if not inside.any():
            break
        kept = np.concatenate([[True], ~inside, [True]])
        whose, y, x = whose[kept], y[kept], x[kept]
    same = whose[:-1] == whose[1:]
    slices = np.where(same, (x[:-1] + x[1:]) * np.diff(y) / 2, 0)
    return np.bincount(whose[:-1], slices, count)


def _sum_of_squares(last: np.ndarray) -> np.ndarray:
    """0² + 1² + … + last²; 0 for last = -1."""
    return last * (last + 1) * (2 * last + 1) // 6
