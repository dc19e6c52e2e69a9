"""The one resampling: image, label and weight read at the same coordinates, mirrored at the borders."""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

Tensor = Any


class Source(NamedTuple):
    """Images as one flat run of pixels: a batch, or a whole data set of images of many sizes.

    image: [pixels, channels] in any real dtype; label, weight: [pixels] or None.
    offset: int32 or int64 [batch], the index of each sample's first pixel.
    height, width: int32 [batch].
    """

    image: Tensor
    label: Tensor | None
    weight: Tensor | None
    offset: Tensor
    height: Tensor
    width: Tensor


class Cells(NamedTuple):
    """Coordinates as cells between four neighbouring pixels.

    index: of the cell's first pixel (least y, least x) in the flat run, [batch, height, width].
    down, right: how far the cell's other pixels are in the flat run, [batch, 1, 1].
    y, x: float32 [batch, height, width], place within the cell, in [0, 1].
    """

    index: Tensor
    down: Tensor
    right: Tensor
    y: Tensor
    x: Tensor

    def crop(self, top: Any, left: Any, height: Any, width: Any) -> Cells:
        """The same for a rectangle of the tile."""

        def cut(value: Tensor) -> Tensor:
            return value[:, top : top + height, left : left + width]

        return self._replace(index=cut(self.index), y=cut(self.y), x=cut(self.x))


def _mirror(local: Tensor, origin: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
    """The cell (a whole float32) and the place in it of a coordinate, mirrored about the border pixels.

    The border pixel is not repeated, so the period is 2 (size - 1); the middle of a cell never falls
    on a turning point, so mirroring middles leaves no ties. All values but the place are exact in
    float32 for images of up to 2 million pixels a side.
    """
    whole = tf.floor(local)
    place = local - whole
    # An image of one pixel is read as one of two, of which the second is the first again.
    last = tf.maximum(tf.cast(size, tf.float32), 2.0) - 1.0
    period = (2.0 * last)[:, None, None]
    middle = whole + (tf.cast(origin, tf.float32) + 0.5)[:, None, None]
    wave = middle - period * tf.floor(middle * (0.5 / last)[:, None, None])
    cell = tf.minimum(wave, period - wave) - 0.5
    return cell, tf.where(wave > last[:, None, None], 1.0 - place, place)


def locate(y: Tensor, x: Tensor, origin: Tensor, source: Source) -> Cells:
    """Turn coordinates into cells of the flat run.

    Args:
        y, x: float32 [batch, height, width], relative to `origin`.
        origin: int32 [batch, 2].
        source: the images; `offset`, `height` and `width` are those of this batch.
    """
    cell_y, place_y = _mirror(y, origin[:, 0], source.height)
    cell_x, place_x = _mirror(x, origin[:, 1], source.width)
    kind = source.offset.dtype
    width = tf.cast(source.width, kind)[:, None, None]
    index = source.offset[:, None, None] + tf.cast(cell_y, kind) * width + tf.cast(cell_x, kind)
    down = tf.where(source.height > 1, source.width, 0)
    right = tf.cast(source.width > 1, tf.int32)
    return Cells(
        index,
        tf.cast(down, kind)[:, None, None],
        tf.cast(right, kind)[:, None, None],
        place_y,
        place_x,
    )


def _take(values: Tensor, index: Tensor) -> Tensor:
    """values[index]; a last axis of one channel is read as none, which compiles to a faster loop."""
    if values.shape.rank == 2 and values.shape[1] == 1:
        return tf.gather(tf.reshape(values, [-1]), index)[..., None]
    return tf.gather(values, index)


def read_bilinear(values: Tensor, cells: Cells) -> Tensor:
    """Bilinear values, float32 [batch, height, width] (+ [channels] for values [pixels, channels])."""

    def corner(step: Tensor | int) -> Tensor:
        return tf.cast(_take(values, cells.index + step), tf.float32)

    y, x = cells.y, cells.x
    if values.shape.rank == 2:
        y, x = y[..., None], x[..., None]
    # a * (1 - t) + b * t, not a + t * (b - a): exact at both ends for every value.
    upper = corner(0) * (1.0 - x) + corner(cells.right) * x
    lower = corner(cells.down) * (1.0 - x) + corner(cells.down + cells.right) * x
    return upper * (1.0 - y) + lower * y


def read_nearest(values: Tensor, cells: Cells) -> Tensor:
    """The nearest pixel's value in its own dtype, [batch, height, width]."""
    step_y = tf.where(cells.y >= 0.5, cells.down, 0)
    step_x = tf.where(cells.x >= 0.5, cells.right, 0)
    return _take(values, cells.index + step_y + step_x)


def _keys(t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Weights of the four pixels around a place t in [0, 1] between the middle two: Keys 1981, a = -1/2."""
    u = 1.0 - t
    return (
        -0.5 * t * u * u,
        1.0 + t * t * (1.5 * t - 2.5),
        1.0 + u * u * (1.5 * u - 2.5),
        -0.5 * u * t * t,
    )


def read_bicubic(values: Tensor, cells: Cells, source: Source) -> Tensor:
    """Bicubic values (cubic convolution), float32 [batch, height, width, channels].

    The outer ring of each 4 x 4 neighbourhood is mirrored at the image's border.
    """
    kind = source.offset.dtype
    width = tf.cast(source.width, kind)[:, None, None]
    height = tf.cast(source.height, kind)[:, None, None]
    inside = cells.index - source.offset[:, None, None]
    row = tf.math.floordiv(inside, width)
    column = inside - row * width

    def steps(cell: Tensor, size: Tensor) -> list[Tensor]:
        last = tf.maximum(size - 1, 0)
        after = tf.minimum(cell + 1, last)
        beyond = tf.where(cell + 2 > last, tf.maximum(2 * last - cell - 2, 0), cell + 2)
        return [tf.minimum(tf.abs(cell - 1), last), cell, after, tf.minimum(beyond, last)]

    start = source.offset[:, None, None]
    total = None
    for place, weight_y in zip(steps(row, height), _keys(cells.y), strict=True):
        for step, weight_x in zip(steps(column, width), _keys(cells.x), strict=True):
            value = tf.cast(_take(values, start + place * width + step), tf.float32)
            term = value * (weight_y * weight_x)[..., None]
            total = term if total is None else total + term
    return total
