"""Batch normalization in one operation where TensorFlow is the backend."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers


@keras.saving.register_keras_serializable(package="keras_unet")
class BatchNormalization(layers.BatchNormalization):
    """Keras's layer, same weights and numbers; in training by TensorFlow's FusedBatchNormV3.

    Keras 3 spells it out as a dozen operations, each a pass over the tensor in float32, which on a
    CPU makes a training step a quarter longer (benchmarks/train_step_options.py). Another backend,
    another axis than the channels of [B, H, W, C], float64, weights that aren't float32, a mask,
    renormalization or moments over several devices: as Keras has it.
    """

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        fits = len(inputs.shape) == 4 and self.axis in (-1, 3)
        fits = fits and inputs.dtype != "float64" and self.variable_dtype == "float32"
        renorm = getattr(self, "renorm", False)  # Keras 3.12 has none
        plain = self.center and self.scale and not (self.synchronized or renorm)
        updated = training and self.trainable and mask is None
        if not (fits and plain and updated and keras.backend.backend() == "tensorflow"):
            return super().call(inputs, training=training, mask=mask)
        import tensorflow as tf

        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=tf.convert_to_tensor(self.gamma),
            offset=tf.convert_to_tensor(self.beta),
            mean=tf.zeros([0]),
            variance=tf.zeros([0]),
            epsilon=self.epsilon,
            is_training=True,
        )
        count = tf.cast(tf.size(inputs) / tf.shape(inputs)[-1], variance.dtype)
        variance *= (count - 1) / count  # the operation divides by one less; Keras does not
        for moving, now in ((self.moving_mean, mean), (self.moving_variance, variance)):
            moving.assign(moving * self.momentum + now * (1.0 - self.momentum))
        return outputs
