"""The compiled training step: tiles drawn where it runs, and a watch over the weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

FINITE = "finite"  # in a step's logs: 1 where all that it changed are numbers after it, else 0


class TrainingStep(keras.Model):
    """A network as it is trained: it shares layers and weights with the one it is made of.

    Save that one. A step's logs say whether all trainable weights, and the gradients gathered for
    their next change, are finite after it, which tells of a gradient that wasn't, unless the
    optimizer left the step out (float16's loss scaling).

    Args:
        network: a functional model.
        draw: makes (x, y, w) of what the data set gives, say `augment.sample` of a bank for
            requests (index [B], seeds [B, 2]); None: the data set gives (x, y, w).
    """

    def __init__(
        self, network: keras.Model, draw: Callable[..., tuple[Any, ...]] | None = None
    ) -> None:
        super().__init__(network.inputs, network.outputs, name=network.name)
        # kept in a function, so that Keras takes no part of it for a part of the network
        self._draw = lambda data: data if draw is None else draw(*data)

    def train_step(self, data: tuple[Any, ...]) -> dict[str, Any]:
        """One step on a batch, or on a batch of requests."""
        logs = super().train_step(self._draw(data))
        return {**logs, FINITE: self.finite()}

    def finite(self) -> tf.Tensor:
        """1.0 where every trainable weight and gathered gradient is a number, else 0.0."""
        gathered = [v for v in self.optimizer.variables if v.name.endswith("gradient_accumulator")]
        # in float32, sums of squares are infinite beyond 1e19, where nothing is learnt any more
        squares = [
            tf.nn.l2_loss(tf.cast(v, tf.float32)) for v in (*self.trainable_variables, *gathered)
        ]
        return tf.cast(tf.math.is_finite(tf.add_n(squares)), tf.float32)
