"""An exponential moving average of a network's weights: smoother than the last step's."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf


class WeightAverage(keras.callbacks.Callback):
    """After each change of the weights w, average ← d · average + (1 - d) · w.

    d = min(decay, (1 + t) / (10 + t)) after t changes, as TensorFlow's ExponentialMovingAverage
    with `num_updates`: the first weights are soon forgotten. The statistics of batch normalisation
    are averaged too. Keras's own `use_ema` leaves those out, starts from the random weights with
    the full decay, and its `SwapEMAWeights` swaps by additions, which round.

    The averages are variables of the optimizer, so that a checkpoint that holds those holds them;
    training never sees them.

    Args:
        network: whose weights are averaged.
        optimizer: of the model that shares them; it is built.
        decay: d, in (0, 1).
    """

    def __init__(
        self, network: keras.Model, optimizer: keras.optimizers.Optimizer, decay: float
    ) -> None:
        super().__init__()
        inner = getattr(optimizer, "inner_optimizer", optimizer)  # within loss scaling
        self._twin = keras.models.clone_model(network)
        averages = []
        for number, weight in enumerate(network.weights):
            average = inner.add_variable_from_reference(weight, name=f"average{number}")
            average.assign(weight)
            averages.append(average)
        seen = inner.add_variable((), initializer="zeros", dtype="int64", name="averaged")
        self._averages = averages

        @tf.function
        def update() -> None:
            changes = tf.cast(inner.iterations, tf.int64)

            def step() -> tf.Tensor:
                t = tf.cast(changes, tf.float32)
                share = 1.0 - tf.minimum(decay, (1.0 + t) / (10.0 + t))
                for average, weight in zip(averages, network.weights, strict=True):
                    average.assign(average + share * (weight - average))
                seen.assign(changes)
                return changes

            # gradients may be gathered over several steps, or a step be left out
            tf.cond(changes > tf.cast(seen.value, tf.int64), step, lambda: changes)

        self._update = update

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._update()

    def network(self) -> keras.Model:
        """A network of its own with the averages as its weights."""
        for own, average in zip(self._twin.weights, self._averages, strict=True):
            own.assign(average)
        return self._twin
