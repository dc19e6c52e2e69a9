"""From drawn geometry to source coordinates: everything is composed before anything is resampled."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from keras_unet.augment.draws import Geometry
from keras_unet.augment.splines import spline_rows

Tensor = Any


def grid_displacement(
    grid: Tensor, height: int | Tensor, width: int | Tensor
) -> tuple[Tensor, Tensor]:
    """Per-pixel displacements from a coarse grid by bicubic interpolation.

    Paper, section 3.1: "Per-pixel displacements are then computed using bicubic interpolation."

    Args:
        grid: float32 [batch, 2, rows, columns], displacements (dy, dx) in pixels at grid points that
            span the tile from its first to its last pixel.
        height, width: of the tile.

    Returns:
        dy and dx, float32 [batch, height, width].
    """
    rows = spline_rows(height, grid.shape[2])
    columns = spline_rows(width, grid.shape[3])
    # Products and sums, not tf.matmul: GPUs multiply matrices in TF32 by default, which would move
    # pixels; and the sum over the few columns melts into the kernels that use the field.
    strips = tf.reduce_sum(rows[None, None, :, :, None] * grid[:, :, None], axis=3)
    if grid.shape[3] > 16:
        both = tf.reduce_sum(strips[:, :, :, None, :] * columns[None, None, None], axis=4)
        return both[:, 0], both[:, 1]
    both = [
        sum(strips[:, axis, :, b, None] * columns[None, None, :, b] for b in range(grid.shape[3]))
        for axis in (0, 1)
    ]
    return both[0], both[1]


def tile_offsets(
    geometry: Geometry, height: int | Tensor, width: int | Tensor
) -> tuple[Tensor, Tensor]:
    """Source coordinates of a tile's pixels, relative to where its first pixel lies unmoved.

    Relative coordinates stay small, so float32 resolves them to 1/30,000 pixel in an image of any
    size; and they are whole numbers where the draw is made of flips and right angles.

    Returns:
        y and x, float32 [batch, height, width].
    """
    middle_y = (tf.cast(height, tf.float32) - 1.0) / 2.0
    middle_x = (tf.cast(width, tf.float32) - 1.0) / 2.0
    dy = (tf.range(height, dtype=tf.float32) - middle_y)[None, :, None]
    dx = (tf.range(width, dtype=tf.float32) - middle_x)[None, None, :]
    # A quarter turn of a tile with one odd and one even side would fall between pixels.
    half = 0.5 * tf.cast(tf.math.floormod(height - width, 2), tf.float32) * geometry.turned
    matrix = geometry.matrix[:, :, :, None, None]
    start_y = (middle_y + half + geometry.shift[:, 0])[:, None, None]
    start_x = (middle_x + half + geometry.shift[:, 1])[:, None, None]
    y = matrix[:, 0, 0] * dy + start_y + matrix[:, 0, 1] * dx
    x = matrix[:, 1, 0] * dy + start_x + matrix[:, 1, 1] * dx
    if geometry.grid is not None:
        move_y, move_x = grid_displacement(geometry.grid, height, width)
        y, x = y + move_y, x + move_x
    return y, x


def tile_origin(
    position: Tensor,
    heights: Tensor,
    widths: Tensor,
    output_size: tuple[int | Tensor, int | Tensor],
    margins: tuple[int | Tensor, int | Tensor],
) -> Tensor:
    """Where the tile's first pixel lies in its image: int32 [batch, 2], negative in the margin.

    The centre of the output is drawn uniformly over the image's pixels; what sticks out is mirrored
    content. Counting the mirrored copies, every pixel is then seen equally often, those of the
    border too (the outermost line, which mirroring does not repeat, shows once where others show
    twice). An output that is larger than the image is centred on it.

    Args:
        position: float32 [batch, 2] uniform in [0, 1), or None: centred.
        heights, widths: int32 [batch], of the images.
        output_size: of the output tile.
        margins: pixels of context on each side of the output.
    """
    origins = []
    for axis, sizes in ((0, heights), (1, widths)):
        output = output_size[axis]
        centred = tf.math.floordiv(sizes - output, 2)
        if position is None:
            first = centred
        else:
            # An even output has its centre between pixels: one place more than the image has pixels.
            places = sizes + tf.cast(1 - output % 2, sizes.dtype)
            place = tf.cast(position[:, axis] * tf.cast(places, tf.float32), sizes.dtype)
            first = tf.minimum(place, places - 1) - tf.cast(output // 2, sizes.dtype)
            first = tf.where(sizes < output, centred, first)
        origins.append(first - margins[axis])
    return tf.stack(origins, axis=1)
