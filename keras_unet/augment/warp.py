"""Warping by given displacements: what `tfa.image.dense_image_warp` and elasticdeform did."""

from __future__ import annotations

import functools
from typing import Any

import tensorflow as tf

from keras_unet.augment.field import Field
from keras_unet.augment.resample import locate, read_bicubic, read_bilinear, read_nearest
from keras_unet.augment.sources import batch_source
from keras_unet.augment.splines import spline_rows
from keras_unet.errors import DataError

Tensor = Any


def grid_displacement(grid: Tensor, size: tuple[int, int]) -> Tensor:
    """Per-pixel displacements from displacements on a coarse grid, by bicubic interpolation.

    Paper, section 3.1. The grid spans the picture from its first to its last pixel; which cubic,
    see `keras_unet.augment.splines`.

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


def dense_warp(
    image: Tensor,
    displacement: Tensor,
    label: Tensor | None = None,
    weight: Tensor | None = None,
    *,
    interpolation: str = "bilinear",
) -> Any:
    """Warp by a displacement of each pixel: result[i, j] = image[i + dy, j + dx].

    Borders are mirrored. `tfa.image.dense_image_warp(image, flow)` is `dense_warp(image, -flow)`.

    Args:
        image: [batch, height, width, channels] of any real dtype.
        displacement: [batch, height, width, 2], (dy, dx) in pixels.
        label: [batch, height, width] of any integer dtype, read by nearest neighbour, or None.
        weight: [batch, height, width], read bilinearly, or None.
        interpolation: of the image: "bilinear" or "bicubic".

    Returns:
        float32 image of the same shape; with label or weight: a tuple of what was given.

    Raises:
        DataError: if the shapes do not fit each other.
    """
    if interpolation not in ("bilinear", "bicubic"):
        raise DataError(f"interpolation must be 'bilinear' or 'bicubic'; found {interpolation!r}")
    image, displacement = tf.convert_to_tensor(image), tf.cast(displacement, tf.float32)
    if image.shape.rank != 4 or not displacement.shape.is_compatible_with((*image.shape[:3], 2)):
        raise DataError(
            "image must be [batch, height, width, channels] and displacement [batch, height, "
            f"width, 2]; found {image.shape} and {displacement.shape}"
        )
    label = None if label is None else tf.convert_to_tensor(label)
    weight = None if weight is None else tf.convert_to_tensor(weight)
    result = _compiled(interpolation)(image, displacement, label, weight)
    given = tuple(value for value in result if value is not None)
    return given if len(given) > 1 else given[0]


@functools.cache
def _compiled(interpolation: str) -> Any:
    def warp(image: Tensor, displacement: Tensor, label: Tensor | None, weight: Tensor | None):
        source, (height, width) = batch_source(image, label, weight)
        y = tf.range(height, dtype=tf.float32)[None, :, None] + displacement[..., 0]
        x = tf.range(width, dtype=tf.float32)[None, None, :] + displacement[..., 1]
        cells = locate(y, x, source)
        read = read_bicubic if interpolation == "bicubic" else read_bilinear
        return (
            read(source.image, cells, source),
            None if label is None else read_nearest(source.label, cells, source),
            None if weight is None else read_bilinear(source.weight, cells, source),
        )

    return tf.function(warp, jit_compile=True, autograph=False)
