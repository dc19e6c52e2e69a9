"""Crops whose gradient costs one pass over the tensor where TensorFlow is the backend."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers


def cut(x: Any, top: int, left: int, height: Any, width: Any) -> Any:
    """The part of [B, H, W, C] that begins at (top, left) and has the given height and width.

    The gradient of TensorFlow's `x[:, a:b, c:d]` (StridedSliceGrad) runs on one core of a CPU and
    takes several times as long as that of `tf.slice`, a padding (docs/training.md).
    """
    if keras.backend.backend() != "tensorflow":
        return x[:, top : top + height, left : left + width, :]
    import tensorflow as tf

    part = tf.slice(x, [0, top, left, 0], tf.stack([-1, height, width, -1]))
    known = [size if isinstance(size, int) else None for size in (height, width)]
    part.set_shape([x.shape[0], *known, x.shape[3]])  # else what is not known hides what is
    return part


@keras.saving.register_keras_serializable(package="keras_unet")
class Cropping2D(layers.Cropping2D):
    """Keras's layer with a fast gradient, for channels last."""

    def call(self, inputs: Any) -> Any:
        if self.data_format != "channels_last":
            return super().call(inputs)
        (top, bottom), (left, right) = self.cropping
        sizes = keras.ops.shape(inputs)[1:3]
        height, width = sizes[0] - top - bottom, sizes[1] - left - right
        if any(isinstance(size, int) and size <= 0 for size in (height, width)):
            return super().call(inputs)  # says so
        # of unknown sizes nothing may be left, as in Keras; -1 would be all the rest
        return cut(inputs, top, left, _at_least_0(height), _at_least_0(width))


def _at_least_0(size: Any) -> Any:
    return size if isinstance(size, int) else keras.ops.maximum(size, 0)


@keras.saving.register_keras_serializable(package="keras_unet")
class CropLike(layers.Layer):
    """Cuts the first tensor [B, H, W, C] at the bottom and right to the second's height, width.

    A pooling of an odd size rounds up, so the up-convolution gives one row or column too many.
    Keras has no layer that cuts by a size known only at run time.
    """

    def call(self, inputs: list[Any]) -> Any:
        x, like = inputs
        return cut(x, 0, 0, *keras.ops.shape(like)[1:3])

    def compute_output_shape(self, input_shape: list[Any]) -> tuple[Any, ...]:
        x, like = input_shape
        return (x[0], like[1], like[2], x[3])
