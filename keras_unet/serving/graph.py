"""The serving graph: float images of any size in, probabilities out, nothing left to the client.

Mirroring, normalisation and cropping are TensorFlow operations of the exported graph, so that a
server needs neither this package nor Keras.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_unet import geometry
from keras_unet.data.normalization import FLOOR, Normalization
from keras_unet.inference.prediction import probabilities_of
from keras_unet.models.bundle import TrainedModel
from keras_unet.models.unet import structure


def write_saved_model(model: TrainedModel, folder: str | Path) -> None:
    """Writes a SavedModel with the signature `serving_default` to `folder`.

    `serving_default(images)`: float32 [B, H, W, C], values as in the training images' files, any
    H and W -> `{"probabilities": float32 [B, H, W, K]}`. Images of a batch share one size.
    """
    form = structure(model.network)

    @tf.function(
        input_signature=[tf.TensorSpec([None, None, None, form.channels], tf.float32, "images")],
        autograph=False,
    )
    def serving_default(images: Any) -> dict[str, Any]:
        height, width = tf.shape(images)[1], tf.shape(images)[2]
        x = _normalised(images, model.card.normalization, form.channels)
        x, before = _mirrored(x, form.depth, form.padding)
        y = probabilities_of(model.network(x, training=False), form.output)
        return {"probabilities": y[:, before : before + height, before : before + width]}

    archive = keras.export.ExportArchive()
    archive.track(model.network)
    archive.add_endpoint("serving_default", serving_default)
    archive.write_out(str(folder), verbose=False)


def _mirrored(x: Any, depth: int, padding: geometry.Padding) -> tuple[Any, int]:
    """Extends [B, H, W, C] to a legal input by mirroring; also where the image is in the output."""
    stride, margin = geometry.stride(depth), geometry.margin(depth)
    if padding == "valid":  # geometry.input_size, as a graph
        context = margin
        smallest = geometry.input_size(1, depth)
        least = smallest - 2 * margin
        legal = [least + -(-(n - least) // stride) * stride for n in _sizes(x)]
        after = [
            context + tf.maximum(n, least) - size for n, size in zip(legal, _sizes(x), strict=True)
        ]
        before = 0
    else:
        context = before = -(-geometry.reach(depth) // stride) * stride
        after = [context, context]
    for axis, (size, end) in enumerate(zip(_sizes(x), after, strict=True), start=1):
        period = tf.maximum(2 * size - 2, 1)
        folded = tf.range(-context, size + end) % period
        x = tf.gather(x, tf.minimum(folded, period - folded) % size, axis=axis)
    return x, before


def _sizes(x: Any) -> tuple[Any, Any]:
    shape = tf.shape(x)
    return shape[1], shape[2]


def _normalised(x: Any, normalization: Normalization, channels: int) -> Any:
    """`Normalization.__call__` for a batch, as a graph."""
    if normalization.method == "image":
        exact = tf.cast(x, tf.float64)  # a constant image must come out as zeros
        mean = tf.reduce_mean(exact, axis=[1, 2], keepdims=True)
        std = tf.math.reduce_std(exact, axis=[1, 2], keepdims=True)
        largest = tf.reduce_max(tf.abs(exact), axis=[1, 2, 3], keepdims=True)
        scale = tf.math.divide_no_nan(tf.ones_like(std), tf.maximum(std, FLOOR * largest))
        return (x - tf.cast(mean, x.dtype)) * tf.cast(scale, x.dtype)
    shift, scale = normalization.parameters(np.zeros((1, 1, channels), np.float32))
    return (x - shift) * scale
