"""Coordinate field: drawn geometry composed into source coordinates before anything is resampled.

The elastic displacement is the cubic interpolation of a coarse grid by small matrices: values =
rows @ grid @ columns.T. Which cubic: the interpolating cubic spline that is mirrored at the first
and last grid point, which lie on the tile's first and last pixel. It passes through the drawn
values exactly, has two continuous derivatives, and its slope is zero at the tile's border, so that
it continues smoothly into the mirrored image. It is `scipy.ndimage`'s order 3 with mode "mirror"
and elasticdeform's interpolation of its control points.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from keras_unet.augment.draws import Geometry
from keras_unet.errors import DataError

Tensor = Any


@functools.lru_cache(maxsize=32)
def spline_pieces(points: int) -> np.ndarray:
    """The cardinal splines' polynomials: float64 [points - 1, 4, points].

    Entry [k, d, b] is the coefficient of t^d, t in [0, 1] between grid points k and k + 1, of the
    spline that is 1 at point b and 0 at all others.
    """
    from scipy.interpolate import CubicSpline

    # Mirroring about the end points makes the first derivative there zero: "clamped".
    spline = CubicSpline(np.arange(points), np.eye(points), axis=0, bc_type="clamped")
    return np.ascontiguousarray(spline.c[::-1].transpose(1, 0, 2))


def spline_rows(size: int | Tensor, points: int) -> Tensor:
    """The matrix from `points` grid values to `size` pixels: float64 [size, points].

    The grid spans the pixels: pixel 0 is the first grid point, pixel size - 1 the last.
    """
    pieces = tf.constant(spline_pieces(points))
    last = tf.cast(tf.maximum(size - 1, 1), tf.float64)
    place = tf.range(size, dtype=tf.float64) * (points - 1.0) / last
    piece = tf.minimum(tf.floor(place), points - 2.0)
    t = (place - piece)[:, None]
    c = tf.gather(pieces, tf.cast(piece, tf.int32))
    return c[:, 0] + t * (c[:, 1] + t * (c[:, 2] + t * c[:, 3]))


class Field(NamedTuple):
    """Source coordinates of a tile as a sum of few products of row and column values.

    The coordinate of pixel (i, j) along an axis is sum_k rows[axis, i, k] * columns[k, j]: the
    bicubic elastic displacement, the affine map and the centre are all of this form.

    rows: float32 [batch, 2, height, terms].
    columns: float32 [terms, width]; the first is all ones.
    """

    rows: Tensor
    columns: Tensor

    def crop(self, first: tuple[Any, Any], size: tuple[Any, Any]) -> Field:
        """The same for a rectangle of the tile: its first pixel and its (height, width)."""
        top, left = first
        rows = self.rows[:, :, top : top + size[0]]
        return Field(rows, self.columns[:, left : left + size[1]])

    def coordinates(self) -> tuple[Tensor, Tensor]:
        """y and x, float32 [batch, height, width]."""
        terms = self.columns.shape[0]
        if terms > 20:
            product = self.rows[..., None, :] * tf.transpose(self.columns)
            both = tf.reduce_sum(product, axis=-1)
            return both[:, 0], both[:, 1]
        # Written out, the sum melts into the loops that use the field and takes no memory.
        y, x = (
            sum(
                (self.rows[:, axis, :, k, None] * self.columns[k] for k in range(1, terms)),
                start=self.rows[:, axis, :, 0, None],
            )
            for axis in (0, 1)
        )
        return y, x


def make_field(
    geometry: Geometry, origin: Tensor, height: int | Tensor, width: int | Tensor
) -> Field:
    """Compose elastic displacement, affine map and shift of a tile.

    Coordinates are pixels of the source image: whole numbers where the draw is made of flips and
    right angles; float32 resolves them to 1/8,000 pixel at 1,000 pixels, 1/2,000 at 4,000.

    Paper, section 3.1: displacements on a coarse grid; "per-pixel displacements are then computed
    using bicubic interpolation": rows @ grid @ columns, of which the first product is taken here,
    in float64 (a GPU rounds float32 products to TF32, which would move pixels).

    Args:
        geometry: what was drawn.
        origin: int32 [batch, 2], where the tile's first pixel lies unmoved.
        height, width: of the tile.
    """
    kind = tf.float64
    middle = [(tf.cast(size, kind) - 1.0) / 2.0 for size in (height, width)]
    dy, dx = (
        (tf.range(size, dtype=kind) - half)[:, None]
        for size, half in zip((height, width), middle, strict=True)
    )
    # A quarter turn of a tile with one odd and one even side would fall between pixels.
    half = 0.5 * tf.cast(tf.math.floormod(height - width, 2), kind) * tf.cast(geometry.turned, kind)
    matrix = tf.cast(geometry.matrix, kind)
    start = tf.stack(middle)[None] + half[:, None] + tf.cast(geometry.shift, kind)
    start += tf.cast(origin, kind)
    # [batch, axis, (1, dy), (1, dx)]
    weights = tf.stack(
        [
            tf.stack([start, matrix[:, :, 1]], axis=-1),
            tf.stack([matrix[:, :, 0], tf.zeros_like(start)], axis=-1),
        ],
        axis=-2,
    )
    left = tf.concat([tf.ones_like(dy), dy], axis=1)
    right = tf.concat([tf.ones_like(dx), dx], axis=1)
    if geometry.grid is not None:
        rows, columns = geometry.grid.shape[2:]
        left = tf.concat([left, spline_rows(height, rows)], axis=1)
        right = tf.concat([right, spline_rows(width, columns)], axis=1)
        grid = tf.cast(geometry.grid, kind)
        weights = tf.pad(weights, [[0, 0], [0, 0], [0, rows], [0, columns]])
        weights += tf.pad(grid, [[0, 0], [0, 0], [2, 0], [2, 0]])
    return Field(
        tf.cast(tf.matmul(left, weights), tf.float32), tf.cast(tf.transpose(right), tf.float32)
    )


def tile_origin(
    position: Tensor,
    heights: Tensor,
    widths: Tensor,
    output_size: tuple[int | Tensor, int | Tensor],
    margins: tuple[int | Tensor, int | Tensor],
    centre: Tensor | None = None,
) -> Tensor:
    """Where the tile's first pixel lies in its image: int32 [batch, 2], negative in the margin.

    The centre of the output is drawn uniformly over the image; what sticks out is mirrored content.
    Counting the mirrored copies, every pixel is then seen equally often, those near the border too
    (the outermost line, which mirroring does not repeat, shows once where others show twice). An
    output that is larger than the image is centred on it.

    Args:
        position: float32 [batch, 2] uniform in [0, 1), or None: centred.
        heights, widths: int32 [batch], of the images.
        output_size: of the output tile.
        margins: pixels of context on each side of the output.
        centre: int32 [batch, 2], the pixel that lies in the middle of the output (before it where
            the output is even), instead of a random one; -1, -1: a random one.
    """
    origins = []
    for axis, sizes in ((0, heights), (1, widths)):
        output = output_size[axis]
        centred = tf.math.floordiv(sizes - output, 2)
        if position is None:
            first = centred
        else:
            # The centre is uniform from the first pixel to the last, on whole numbers for an odd
            # output (the two ends half as often: each is one of the mirrored run's turning
            # points) and between them for an even one.
            span = position[:, axis] * tf.cast(sizes - 1, tf.float32)
            place = tf.floor(span + 0.5 * tf.cast(output % 2, tf.float32))
            place = tf.cast(place, sizes.dtype)
            if centre is not None:
                place = tf.where(centre[:, axis] < 0, place, centre[:, axis])
            first = place - tf.cast((output - 1) // 2, sizes.dtype)
            first = tf.where(sizes < output, centred, first)
        origins.append(first - margins[axis])
    return tf.stack(origins, axis=1)


def grid_displacement(grid: Tensor, size: tuple[int, int]) -> Tensor:
    """Per-pixel displacements from displacements on a coarse grid, by bicubic interpolation.

    Paper, section 3.1. The grid spans the picture from its first to its last pixel.

    Args:
        grid: [batch, rows, columns, 2], (dy, dx) in pixels; at least 2 rows and columns.
        size: (height, width).

    Returns:
        float32 [batch, height, width, 2].
    """
    grid = tf.cast(grid, tf.float64)
    if grid.shape.rank != 4 or grid.shape[3] != 2 or min(grid.shape[1:3]) < 2:
        raise DataError(f"grid must be [batch, rows >= 2, columns >= 2, 2]; found {grid.shape}")
    rows, columns = (spline_rows(n, k) for n, k in zip(size, grid.shape[1:3], strict=True))
    strips = tf.matmul(rows, tf.transpose(grid, [0, 3, 1, 2]))
    # The field's first column is the constant part, here none.
    strips = tf.pad(strips, [[0, 0], [0, 0], [0, 0], [1, 0]])
    columns = tf.concat([tf.ones_like(columns[:, :1]), columns], axis=1)
    field = Field(tf.cast(strips, tf.float32), tf.cast(tf.transpose(columns), tf.float32))
    return tf.stack(field.coordinates(), axis=-1)
