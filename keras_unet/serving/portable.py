"""The model as one plain TensorFlow function, from which other runtimes' files are converted.

Weights are constants, an image is computed as a whole (no tiles, no loops) and nothing is checked:
converters know few operations. Normalisation, mirroring, cropping and the activation are inside.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from keras_unet.data.normalization import FLOOR, Normalization
from keras_unet.inference.prediction import probabilities_of
from keras_unet.inference.tiles import layout
from keras_unet.models.bundle import TrainedModel
from keras_unet.models.unet import structure
from keras_unet.serving.overlap import mirrored_whole


def portable(
    model: TrainedModel, size: tuple[int, int] | None = None, *, normalise: bool = True
) -> Any:
    """A tf.function: float32 `images` [B, H, W, C] -> `probabilities` [B, H, W, K].

    Args:
        normalise: images hold the grey values of the files; else they are normalised already.
        size: height and width, for runtimes that want fixed sizes; B is 1 then. None: any.
    """
    form = structure(model.network)
    variables = model.network.trainable_variables, model.network.non_trainable_variables
    weights = [[v.numpy() for v in some] for some in variables]
    shape = [None, None, None] if size is None else [1, *size]
    spec = tf.TensorSpec([*shape, form.channels], tf.float32, "images")

    def run(images: Any) -> dict[str, Any]:
        x = images
        if normalise:
            shift, scale = _parameters(images, model.card.normalization)
            x = (images - shift) * scale
        x, before = mirrored_whole(x, layout(form.depth, form.padding, form.upsampling))
        constants = [[tf.constant(w) for w in some] for some in weights]
        y, _ = model.network.stateless_call(*constants, x, training=False)
        y = probabilities_of(y, form.output)
        height, width = size or tf.unstack(tf.shape(images)[1:3], num=2)
        return {"probabilities": y[:, before : before + height, before : before + width]}

    return tf.function(run, input_signature=[spec], autograph=False)


def _parameters(images: Any, normalization: Normalization) -> tuple[Any, Any]:
    """`Normalization.parameters` in float32: a constant image comes out as nearly zeros."""
    if normalization.method != "image":
        given = normalization.parameters(np.zeros((1, 1, images.shape[-1]), np.float32))
        return given[0], given[1]
    mean = tf.reduce_mean(images, [1, 2], keepdims=True)
    std = tf.sqrt(tf.reduce_mean(tf.square(images - mean), [1, 2], keepdims=True))
    largest = tf.reduce_max(tf.abs(images), [1, 2, 3], keepdims=True)
    return mean, 1.0 / tf.maximum(tf.maximum(std, FLOOR * largest), 1e-30)
