"""Training step: what is compiled, the optimizer's kernel, the moving average of the weights."""

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


@keras.saving.register_keras_serializable(package="keras_unet")
@keras.saving.register_keras_serializable(package="keras_unet", name="AdamW")  # until 0.3
class FusedAdamW(keras.optimizers.Adam):
    """Adam with decoupled weight decay (Loshchilov, Hutter 2019, algorithm 2), as Keras's AdamW.

    The numbers are those of `keras.optimizers.AdamW`, but for rounding: Keras spells the step out,
    a dozen passes over memory, which a network of 31 million weights feels; here it is TensorFlow's
    fused kernel, after the decay.

    Args:
        learning_rate: the rate of the first step.
        weight_decay: rate · weight_decay of each weight is taken from it before a change.
        options: of `keras.optimizers.Adam`.

    >>> model.compile(FusedAdamW(1e-3, 1e-4, global_clipnorm=1.0), losses.WeightedCrossEntropy())
    """

    def __init__(
        self, learning_rate: float = 1e-3, weight_decay: float = 4e-3, **options: Any
    ) -> None:
        super().__init__(learning_rate, weight_decay=weight_decay, **options)

    def update_step(self, gradient: tf.Tensor, variable: tf.Variable, learning_rate: Any) -> None:
        """Changes one variable."""
        number = self._get_variable_index(variable)
        rate = tf.cast(learning_rate, variable.dtype)
        step = tf.cast(self.iterations + 1, variable.dtype)
        if self.weight_decay and self._use_weight_decay(variable):
            variable.assign_sub(variable * (rate * self.weight_decay))
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

    def _apply_weight_decay(self, variables: Any) -> None:
        """Nothing: `update_step` has done it, where Keras would go over all weights again."""

    @classmethod
    def from_config(cls, config: dict[str, Any], *args: Any) -> FusedAdamW:
        """From `get_config`, also of the versions until 0.3, which called it `decay`."""
        if "decay" in config:
            config = {**config, "weight_decay": config["decay"]}
            del config["decay"]
        return super().from_config(config, *args)


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
        for layer in self._twin.layers:  # of which none is frozen, whatever is so in this run
            layer.trainable = True
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
