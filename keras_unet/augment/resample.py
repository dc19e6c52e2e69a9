"""Resampling: image, label and weight read once, at the same coordinates, mirrored at borders."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, NamedTuple

import tensorflow as tf

from keras_unet.errors import DataError

if TYPE_CHECKING:
    from keras_unet.augment.image_bank import ImageBank

Tensor = Any


class Source(NamedTuple):
    """Images as one flat run of pixels: a batch, or a whole data set of images of many sizes.

    image: [pixels, channels] in any real dtype; label, weight: [pixels] or None.
    offset: int32 or int64 [batch], the index of each sample's first pixel.
    height, width: int32 [batch].
    down, right: how far the next row and the next column are, the same for every image (scalars; 0
        where no image has a second row or column).
    small: no image has 2^23 pixels or more, and no index needs 64 bits.
    """

    image: Tensor
    label: Tensor | None
    weight: Tensor | None
    offset: Tensor
    height: Tensor
    width: Tensor
    down: Tensor | int
    right: Tensor | int
    small: bool


def batch_source(
    image: Tensor, label: Tensor | None, weight: Tensor | None
) -> tuple[Source, tuple[int | Tensor, int | Tensor]]:
    """A batch as a flat run, and its images' (height, width).

    Args:
        image: [batch, height, width, channels].
        label, weight: [batch, height, width] or None.
    """
    static, shape = image.shape, tf.shape(image)
    batch = shape[0]
    height, width = (static[axis] or shape[axis] for axis in (1, 2))
    ones = tf.ones([batch], tf.int32)
    source = Source(
        image=tf.reshape(image, [-1, static[3] or shape[3]]),
        label=None if label is None else tf.reshape(label, [-1]),
        weight=None if weight is None else tf.reshape(tf.cast(weight, tf.float32), [-1]),
        offset=tf.range(batch) * (height * width),
        height=ones * height,
        width=ones * width,
        down=width * tf.cast(height > 1, tf.int32),
        right=tf.cast(width > 1, tf.int32),
        small=bool(static[1] and static[2]) and static[1] * static[2] < 2**23,
    )
    return source, (height, width)


def bank_source(bank: ImageBank, index: Tensor) -> tuple[Source, tuple[Tensor, Tensor]]:
    """The images `index` (int32 [batch]) of a bank, and their shift and scale [batch, channels]."""
    offset, height, width, shift, scale = (
        tf.gather(values, index)
        for values in (bank.offset, bank.height, bank.width, bank.shift, bank.scale)
    )
    source = Source(
        image=bank.image,
        label=bank.label,
        weight=bank.weight,
        offset=offset,
        height=height,
        width=width,
        down=bank.pitch,
        right=1,
        small=bank.small,
    )
    return source, (shift, scale)


class Cells(NamedTuple):
    """Coordinates as cells between four neighbouring pixels, all [batch, height, width].

    index: of the cell's first pixel (least y, least x) in the flat run.
    row, column: of that pixel in its image, whole float32 numbers.
    y, x: float32, place within the cell, in [0, 1].
    """

    index: Tensor
    row: Tensor
    column: Tensor
    y: Tensor
    x: Tensor


def _mirror(coordinate: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
    """The cell (a whole float32) and the place in it of a coordinate, mirrored about border pixels.

    The border pixel is not repeated, so the period is 2 (size - 1). Rounding in the quotient can
    only move a turning point by what it is mirrored back by.
    """
    # An image of one pixel is read as one of two, of which the second is the first again.
    last = tf.maximum(tf.cast(size, tf.float32), 2.0) - 1.0
    period = (2.0 * last)[:, None, None]
    wave = coordinate - period * tf.floor(coordinate * (0.5 / last)[:, None, None])
    inside = tf.minimum(tf.abs(wave), period - wave)
    cell = tf.minimum(tf.floor(inside), (last - 1.0)[:, None, None])
    return cell, inside - cell


def locate(y: Tensor, x: Tensor, source: Source) -> Cells:
    """Turn coordinates into cells of the flat run.

    Args:
        y, x: float32 [batch, height, width], in pixels of each sample's image.
        source: the images; `offset`, `height` and `width` are those of this batch.
    """
    row, place_y = _mirror(y, source.height)
    column, place_x = _mirror(x, source.width)
    kind = source.offset.dtype
    if source.small:
        # Below 2^23 the sum with 2^23 holds the whole number in its last bits: a cast that keeps
        # the largest integer for what is out of range takes five times as many instructions.
        number = row * tf.cast(source.down, tf.float32) + column
        start = tf.cast(source.offset, tf.int32) - 0x4B000000
        index = tf.cast(start[:, None, None] + tf.bitcast(number + 2.0**23, tf.int32), kind)
    else:
        index = tf.cast(row, kind) * tf.cast(source.down, kind) + tf.cast(column, kind)
        index = source.offset[:, None, None] + index
    return Cells(index, row, column, place_y, place_x)


def _take(values: Tensor, index: Tensor) -> Tensor:
    """values[index]; one channel is read as none, which compiles to a faster loop."""
    if values.shape.rank == 2 and values.shape[1] == 1:
        return tf.gather(tf.reshape(values, [-1]), index)[..., None]
    return tf.gather(values, index)


def read_bilinear(values: Tensor, cells: Cells, source: Source) -> Tensor:
    """Bilinear values, float32 [batch, height, width] (+ [channels] for [pixels, channels])."""
    length = tf.shape(values)[0] - source.down - source.right

    def corner(step: Tensor | int) -> Tensor:
        # The step moves the values, not the index: the four reads share one checked index. The cast
        # stands before the read (TensorFlow reads no bytes on a GPU) and is compiled after it.
        return _take(tf.cast(values[step : step + length], tf.float32), cells.index)

    y, x = cells.y, cells.x
    if values.shape.rank == 2:
        y, x = y[..., None], x[..., None]
    # a * (1 - t) + b * t, not a + t * (b - a): exact at both ends for every value.
    upper = corner(0) * (1.0 - x) + corner(source.right) * x
    lower = corner(source.down) * (1.0 - x) + corner(source.down + source.right) * x
    return upper * (1.0 - y) + lower * y


def read_nearest(values: Tensor, cells: Cells, source: Source) -> Tensor:
    """The nearest pixel's value in its own dtype, [batch, height, width]."""
    kind = cells.index.dtype
    step_y = tf.where(cells.y >= 0.5, tf.cast(source.down, kind), 0)
    step_x = tf.where(cells.x >= 0.5, tf.cast(source.right, kind), 0)
    wide = tf.cast(values, tf.int32 if values.dtype.size < 4 else values.dtype)
    return tf.cast(_take(wide, cells.index + step_y + step_x), values.dtype)


def cubic_weights(t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Weights of the four pixels around a place t in [0, 1] between the middle two.

    Keys, "Cubic convolution interpolation for digital image processing", 1981, with a = -1/2.
    """
    u = 1.0 - t
    near = 1.0 + t * t * (1.5 * t - 2.5), 1.0 + u * u * (1.5 * u - 2.5)
    return -0.5 * t * u * u, *near, -0.5 * u * t * t


def read_bicubic(values: Tensor, cells: Cells, source: Source) -> Tensor:
    """Bicubic values (cubic convolution), float32 [batch, height, width, channels].

    The outer ring of each 4 x 4 neighbourhood is mirrored at the image's border.
    """
    kind = cells.index.dtype
    values = tf.cast(values, tf.float32)

    def steps(cell: Tensor, size: Tensor, stride: Tensor | int) -> list[Tensor]:
        last = (tf.cast(size, tf.float32) - 1.0)[:, None, None]
        before = tf.minimum(tf.abs(cell - 1.0), last)
        after = tf.minimum(cell + 1.0, last)
        beyond = tf.clip_by_value(tf.minimum(cell + 2.0, 2.0 * last - cell - 2.0), 0.0, last)
        places = (before, cell, after, beyond)
        return [tf.cast(place, kind) * tf.cast(stride, kind) for place in places]

    start = source.offset[:, None, None]
    columns = steps(cells.column, source.width, 1)
    total = None
    for place, weight_y in zip(
        steps(cells.row, source.height, source.down), cubic_weights(cells.y), strict=True
    ):
        line = None
        for step, weight_x in zip(columns, cubic_weights(cells.x), strict=True):
            term = _take(values, start + place + step) * weight_x[..., None]
            line = term if line is None else line + term
        line = line * weight_y[..., None]
        total = line if total is None else total + line
    return total


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
    return given(_compiled(interpolation)(image, displacement, label, weight))


def given(result: tuple[Any, ...]) -> Any:
    """Image, label and weight as far as they were given; the image alone as itself."""
    found = tuple(value for value in result if value is not None)
    return found if len(found) > 1 else found[0]


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
