"""Overlap-tile as TensorFlow operations: `inference.tiles` for a graph that leaves Python."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from keras_unet.inference.tiles import Layout, fitting, layout
from keras_unet.models.unet import Structure

USUAL_TILE = 828  # input pixels a side: at depth 4, 644 of output, 60 percent of the tile


class Tiling(NamedTuple):
    """What does not depend on the image: what the network asks of tiles, and the largest one."""

    form: Layout
    largest: int


class _Axis(NamedTuple):
    """Along one axis, as scalars: the image's size, input tile, new pixels a tile, how many."""

    size: Any
    tile: Any
    step: Any
    repeats: Any


def tiling(network: Structure, tile: int | None = None) -> Tiling:
    """The tiles of `inference.tiles.layout`; `tile` is the largest, pixels a side.

    Raises:
        ConfigError: `tile` is too small to be repeated.
    """
    form = layout(network.depth, network.padding, network.upsampling)
    return Tiling(form, fitting(form, max(USUAL_TILE, form.smallest) if tile is None else tile))


def by_tiles(images: Any, tiles: Tiling, compute: Callable[[Any], Any], dtype: Any) -> Any:
    """Applies `compute` to mirrored tiles one after the other and puts its outputs together.

    Args:
        images: [B, H, W, C], any H, W ≥ 1.
        compute: the network, a tile [B, h, w, C] -> [B, h', w', K] of `dtype`.

    Returns:
        [B, H, W, K]. Beside it and the image, one tile's activations are in memory at a time.
    """
    shape = tf.shape(images)
    rows, columns = _axis(shape[1], tiles), _axis(shape[2], tiles)
    context, lead = tiles.form.context, tiles.form.lead

    def one(index: Any, found: Any) -> Any:
        row, column = index // columns.repeats, index % columns.repeats
        x = tf.gather(images, _mirrored(row, rows, context), axis=1)
        x = tf.gather(x, _mirrored(column, columns, context), axis=2)
        y = compute(x)[:, lead : lead + rows.step, lead : lead + columns.step]
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


def mirrored_whole(images: Any, form: Layout) -> tuple[Any, int]:
    """[B, H, W, C] extended to an input whose output covers it, and where in the output it is.

    Without loops; sizes that are known are folded into constants, and then no runtime prepares the
    graph for other images, though a LiteRT file's client may ask for it: it would answer with a
    part of them.
    """
    known = images.shape[1:3]
    if None not in known:
        images = _of_known_size(images)
    for axis in (1, 2):
        size = tf.shape(images)[axis] if None in known else tf.constant(known[axis - 1])
        one = _Axis(size, _whole(size, form), size, 1)
        images = tf.gather(images, _mirrored(0, one, form.context), axis=axis)
    return images, form.lead


def _of_known_size(images: Any) -> Any:
    """Float32 images as they are, by operations that a runtime can't do for any other shape.

    To reverse the first of a sequence changes nothing; there must be a sequence for each length.
    Delegates would take a plainer operation, and not all of them look at shapes. As bits, so that
    no converter makes 8-bit numbers of them, which LiteRT cannot reverse.
    """
    bits = tf.bitcast(images, tf.int32)
    for axis, count in enumerate(images.shape):
        once = tf.ones([count], tf.int32)
        bits = tf.reverse_sequence(bits, once, seq_axis=2 if axis == 1 else 1, batch_axis=axis)
    return tf.bitcast(bits, tf.float32)


def _whole(size: Any, form: Layout) -> Any:
    """`Layout.input_for`, without negative numbers: no two converters agree on -1 // n."""
    stride = form.stride
    steps = (size + form.lost - form.smallest + 3 * stride - 1) // stride
    return form.smallest - 2 * stride + steps * stride


def _axis(size: Any, tiles: Tiling) -> _Axis:
    form = tiles.form
    whole = _whole(size, form)
    one = whole <= tiles.largest
    tile = tf.where(one, whole, tiles.largest)
    step = tf.where(one, size, (tile - form.lost) // form.stride * form.stride)
    return _Axis(size, tile, step, -(-size // step))


def _mirrored(index: Any, axis: _Axis, context: int) -> Any:
    """`tiles.mirrored` for tile `index`: where in the image its pixels are, int32 [tile]."""
    period = tf.maximum(2 * axis.size - 2, 1)
    start = index * axis.step - context
    folded = tf.abs(tf.range(start, start + axis.tile)) % period  # no converter agrees on -1 % n
    return tf.minimum(folded, period - folded) % axis.size
