"""Refuses an image size that a U-Net without padding can't take, before a layer fails at it."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers

from keras_unet import geometry


@keras.saving.register_keras_serializable(package="keras_unet")
class LegalSize(layers.Layer):
    """Hands [B, H, W, C] on as it is where its height and width pass every pooling evenly.

    Raises:
        ConfigError: they don't, and are known; names the nearest sizes that do. Sizes that only the
            graph knows raise TensorFlow's InvalidArgumentError with the same words.
    """

    def __init__(self, depth: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.depth = depth

    def call(self, inputs: Any) -> Any:
        open_sizes = self._check(keras.ops.shape(inputs)[1:3])
        if open_sizes and keras.backend.backend() == "tensorflow":
            return _checked_in_graph(inputs, self.depth)
        return inputs

    def compute_output_spec(self, inputs: Any) -> Any:
        self._check(inputs.shape[1:3])  # JAX's default makes up sizes where they are open
        return keras.KerasTensor(inputs.shape, self.compute_dtype)

    def _check(self, sizes: Any) -> bool:
        """Looks at the sizes that are known; returns whether there are others."""
        known = [size for size in sizes if isinstance(size, int)]
        for size in known:
            geometry.output_size(size, self.depth)
        return len(known) < 2

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "depth": self.depth}


def _checked_in_graph(inputs: Any, depth: int) -> Any:
    import tensorflow as tf

    sizes = tf.shape(inputs)[1:3]
    smallest, stride = geometry.input_size(1, depth), geometry.stride(depth)
    below = tf.maximum(sizes - (sizes - smallest) % stride, smallest)
    message = tf.strings.format(
        f"input size {{}} does not fit a U-Net of depth {depth} with valid padding: nearest legal "
        f"sizes are {{}} and {{}}; {geometry.ANY_SIZE}",
        [sizes, below, below + stride],
    )
    with tf.control_dependencies([tf.debugging.Assert(tf.reduce_all(below == sizes), [message])]):
        return tf.identity(inputs)
