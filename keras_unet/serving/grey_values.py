"""Grey values in the serving graph: `data.normalization` as TensorFlow operations, with checks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from keras_unet.data.encoded import checked
from keras_unet.data.normalization import FLOOR, Normalization
from keras_unet.models.bundle import ModelCard

_BAND = 2**20  # numbers of an image that are turned into float64 at a time


def same_depth(image: Any, bits: Any, card: ModelCard) -> Any:
    """Grey values of another depth mean something else, unless each image is normalised alone."""
    trained = np.dtype(card.image_dtype)
    if card.normalization.method == "image" or trained.kind not in "ui":
        return image
    expected = 8 * trained.itemsize
    return checked(
        image,
        (bits == expected) | (bits == 0) | ((bits < 8) & (expected == 8)),
        f"image of {{}} bits; expected {trained}, as in training",
        bits,
    )


def parameters(images: Any, normalization: Normalization) -> tuple[Any, Any]:
    """`Normalization.parameters` of each image: (shift, scale), float32 [B or 1, 1, 1, C]."""
    if normalization.method == "image":  # in float64: a constant image must come out as zeros
        exact = tf.float64
        count = tf.cast(tf.reduce_prod(tf.shape(images)[1:3]), exact)
        mean = _sum_of_bands(images, lambda band: band) / count
        std = tf.sqrt(_sum_of_bands(images, lambda band: tf.square(band - mean)) / count)
        low, high = (
            tf.cast(f(images, axis=[1, 2, 3], keepdims=True), exact)
            for f in (tf.reduce_min, tf.reduce_max)
        )
        least = FLOOR * tf.maximum(tf.abs(low), tf.abs(high))
        scale = tf.math.divide_no_nan(tf.ones_like(std), tf.maximum(std, least))
        return tf.cast(mean, tf.float32), tf.cast(scale, tf.float32)
    shift, scale = normalization.parameters(np.zeros((1, 1, images.shape[-1]), np.float32))
    if normalization.scale is not None:
        brightest = tf.cast(tf.reduce_max(images), tf.float32)
        scale = checked(
            scale,
            (tf.size(images) == 0) | (brightest <= normalization.scale * (1 + 1e-6)),
            f"grey values up to {{}}; expected at most {normalization.scale:g}",
            brightest,
        )
    return tf.constant(shift), scale


def _sum_of_bands(images: Any, function: Callable[[Any], Any]) -> Any:
    """Sum over the pixels of function(image), float64 [B, 1, 1, C], some rows at a time."""
    shape = tf.shape(images)
    rows = tf.maximum(1, _BAND // tf.maximum(shape[0] * shape[2] * shape[3], 1))

    def add(top: Any, total: Any) -> Any:
        band = function(tf.cast(images[:, top : top + rows], tf.float64))
        return top + rows, total + tf.reduce_sum(band, axis=[1, 2], keepdims=True)

    zero = tf.zeros(tf.stack([shape[0], 1, 1, shape[3]]), tf.float64)
    start = (tf.constant(0), tf.ensure_shape(zero, [None, 1, 1, images.shape[-1]]))
    return tf.while_loop(lambda top, _: top < shape[1], add, start, parallel_iterations=1)[1]
