"""Overlap-tile as TensorFlow operations: `inference.tiles` for a graph that leaves Python."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from keras_unet import geometry
from keras_unet.errors import ConfigError
from keras_unet.inference.tiles import USUAL_TILE


class Tiling(NamedTuple):
    """What does not depend on the image: pixels of context, stride, least and largest tile."""

    padding: geometry.Padding
    context: int
    stride: int
    smallest: int
    largest: int


class _Axis(NamedTuple):
    """Along one axis, as scalars: the image's size, input tile, new pixels a tile, how many."""

    size: Any
    tile: Any
    step: Any
    repeats: Any


def tiling(depth: int, padding: geometry.Padding, tile: int | None = None) -> Tiling:
    """The tiles of `inference.tiles.plan`; `tile` is the largest, pixels a side.

    Raises:
        ConfigError: `tile` is too small to be repeated.
    """
    stride = geometry.stride(depth)
    if padding == "valid":
        context, smallest = geometry.margin(depth), geometry.input_size(stride, depth)
    else:  # zeros enter at the tile's edge; beyond the reach they are not seen
        context = -(-geometry.reach(depth) // stride) * stride
        smallest = stride + 2 * context
    if tile is not None and tile < smallest:
        raise ConfigError(
            f"tile is {tile}; at depth {depth} with {padding} padding the smallest that can be "
            f"repeated is {smallest}"
        )
    largest = max(USUAL_TILE, smallest) if tile is None else tile
    return Tiling(padding, context, stride, smallest, largest - (largest - smallest) % stride)


def by_tiles(images: Any, form: Tiling, compute: Callable[[Any], Any], dtype: Any) -> Any:
    """Applies `compute` to mirrored tiles one after the other and puts its outputs together.

    Args:
        images: [B, H, W, C], any H, W ≥ 1.
        compute: a tile [B, h, w, C] -> [B, h', w', K] of `dtype`: h' = h - 2 * context for
            "valid" padding, h' = h for "same".

    Returns:
        [B, H, W, K]. Beside it and the image, one tile's activations are in memory at a time.
    """
    shape = tf.shape(images)
    rows, columns = _axis(shape[1], form), _axis(shape[2], form)
    before = 0 if form.padding == "valid" else form.context

    def one(index: Any, found: Any) -> Any:
        row, column = index // columns.repeats, index % columns.repeats
        x = tf.gather(images, _mirrored(row, rows, form.context), axis=1)
        x = tf.gather(x, _mirrored(column, columns, form.context), axis=2)
        y = compute(x)[:, before : before + rows.step, before : before + columns.step]
        return index + 1, found.write(index, y)

    total = rows.repeats * columns.repeats
    found = tf.TensorArray(dtype, size=total, element_shape=[None] * 4)
    _, found = tf.while_loop(
        lambda index, _: index < total, one, (tf.constant(0), found), parallel_iterations=1
    )
    y = found.stack()  # [tiles, B, rows.step, columns.step, K]
    k = tf.shape(y)[-1]
    y = tf.reshape(y, [rows.repeats, columns.repeats, shape[0], rows.step, columns.step, k])
    y = tf.transpose(y, [2, 0, 3, 1, 4, 5])
    y = tf.reshape(y, [shape[0], rows.repeats * rows.step, columns.repeats * columns.step, k])
    return y[:, : rows.size, : columns.size]


def mirrored_whole(images: Any, form: Tiling) -> tuple[Any, int]:
    """[B, H, W, C] extended to an input whose output covers it, and where in the output it is.

    Without loops; sizes that are known are folded into constants.
    """
    for axis in (1, 2):
        known = images.shape[axis]
        size = tf.shape(images)[axis] if known is None else tf.constant(known)
        one = _Axis(size, _whole(size, form), size, 1)
        images = tf.gather(images, _mirrored(0, one, form.context), axis=axis)
    return images, 0 if form.padding == "valid" else form.context


def _whole(size: Any, form: Tiling) -> Any:
    """Pixels of an input that covers the whole image."""
    if form.padding == "valid":  # geometry.input_size
        return form.stride * (11 + (size + 2 * form.stride - 5) // form.stride) - 4
    return size + 2 * form.context


def _axis(size: Any, form: Tiling) -> _Axis:
    whole = _whole(size, form)
    one = whole <= form.largest
    tile = tf.where(one, whole, form.largest)
    step = tf.where(one, size, (tile - 2 * form.context) // form.stride * form.stride)
    return _Axis(size, tile, step, -(-size // step))


def _mirrored(index: Any, axis: _Axis, context: int) -> Any:
    """`tiles.mirrored` for tile `index`: where in the image its pixels are, int32 [tile]."""
    period = tf.maximum(2 * axis.size - 2, 1)
    start = index * axis.step - context
    folded = tf.abs(tf.range(start, start + axis.tile)) % period  # no converter agrees on -1 % n
    return tf.minimum(folded, period - folded) % axis.size
