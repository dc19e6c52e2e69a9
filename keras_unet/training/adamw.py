"""AdamW in one pass over weights, gradients and moments."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable(package="keras_unet")
class AdamW(keras.optimizers.Adam):
    """Adam with decoupled weight decay (Loshchilov, Hutter 2019, algorithm 2), as Keras's.

    The numbers are those of `keras.optimizers.AdamW`, but for rounding: Keras spells the step out,
    a dozen passes over memory, which a network of 31 million weights feels; here it is TensorFlow's
    fused kernel, after the decay.

    Args:
        learning_rate: the rate of the first step.
        decay: rate · decay of each weight is taken from it before a change.
        options: of `keras.optimizers.Adam`.
    """

    def __init__(self, learning_rate: float, decay: float, **options: Any) -> None:
        super().__init__(learning_rate, **options)
        self.decay = decay

    def update_step(self, gradient: tf.Tensor, variable: tf.Variable, learning_rate: Any) -> None:
        """Changes one variable."""
        number = self._get_variable_index(variable)
        rate = tf.cast(learning_rate, variable.dtype)
        step = tf.cast(self.iterations + 1, variable.dtype)
        if self.decay:
            variable.assign_sub(variable * (rate * self.decay))
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[number].value.handle,
            v=self._velocities[number].value.handle,
            beta1_power=self.beta_1**step,
            beta2_power=self.beta_2**step,
            lr=rate,
            beta1=self.beta_1,
            beta2=self.beta_2,
            epsilon=self.epsilon,
            grad=gradient,
        )

    def get_config(self) -> dict[str, Any]:
        """Keras's, with `decay`."""
        config = super().get_config()
        del config["weight_decay"]  # Adam's own, which is not used
        return {**config, "decay": self.decay}
