"""Training step of several devices: each takes a share of the batch, all take the same step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_unet.augment.image_bank import ImageBank
from keras_unet.training.distributed.cluster import STATUS, Cluster
from keras_unet.training.step import FINITE, TrainingStep

APART = 1_000_003  # between two devices' seeds of drop-out


class ParallelStep(TrainingStep):
    """What `TrainingStep` does, on the devices of a cluster.

    Weights, optimizer and metrics are those of one device: the machine's first. In each step, each
    of its devices gets a copy of the weights and computes the gradient of its share's part of the
    loss; these are summed over all devices in one exchange, together with the statistics of batch
    normalization, the losses and the machines' status. The optimizer then sees the gradient of the
    whole batch, as on one device, in clipping, accumulation and loss scaling too. (Keras's own way
    with mirrored variables clips on each device, and cannot accumulate or scale on a CPU.)

    Args:
        network, draw: see `TrainingStep`; `draw` is called on each device.
        cluster: more than one device.
        synchronized: batch normalisation is over the tiles of all devices.
    """

    def __init__(
        self,
        network: keras.Model,
        draw: Callable[..., tuple[Any, ...]] | None,
        cluster: Cluster,
        *,
        synchronized: bool,
    ) -> None:
        super().__init__(network, draw)
        assert cluster.strategy is not None
        self._cluster, self._synchronized = cluster, synchronized
        self._strategy: Any = cluster.strategy
        self._train: Callable[[Any], dict[str, Any]] | None = None

    def make_train_function(self, force: bool = False) -> Callable[[Any], dict[str, Any]]:
        """One step on what an iterator gives: the logs."""
        if self._train is None or force:
            together = tf.function(tf.autograph.experimental.do_not_convert(self._together))

            def train(batches: Any) -> dict[str, Any]:
                logs, total = together(batches, self._cluster.status())
                self._cluster.update(total.numpy())
                return logs

            self._train = train
        return self._train

    def _together(self, batches: Any, status: tf.Tensor) -> tuple[dict[str, Any], tf.Tensor]:
        """One step of all devices on this machine's share of a batch."""
        strategy = self._strategy
        with _normalizing_together(self.layers if self._synchronized else ()):
            parts, seeds = strategy.run(self._alone, args=(batches.get_next(), status))
        total = strategy.reduce(tf.distribute.ReduceOp.SUM, parts, axis=None)
        trained, statistics = self.trainable_weights, _statistics(self)
        metrics = self.metrics_variables
        shapes = [v.shape for v in (*trained, *statistics, *metrics)] + [(STATUS,)]
        pieces = iter(_unpack(total, shapes))
        gradients = [next(pieces) for _ in trained]
        self.optimizer.apply_gradients(zip(gradients, trained, strict=True))
        for variable in statistics:
            variable.assign(next(pieces))
        for variable, value in zip(_seeds(self), seeds, strict=True):
            variable.assign(strategy.experimental_local_results(value)[0])
        for variable in metrics:
            variable.assign_add(next(pieces))
        return {**self.get_metrics_result(), FINITE: self.finite()}, next(pieces)

    def _alone(self, batch: Any, status: tf.Tensor) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """One device's part: nothing is written, so that all of it is a function of the state."""
        replicas, place = self._cluster.replicas, self._cluster.replica()
        local = place % self._cluster.local_replicas

        def share(rows: tf.Tensor) -> tf.Tensor:
            count = rows.shape[0] // self._cluster.local_replicas
            return rows[local * count : (local + 1) * count]

        x, y, weight = self._draw(tf.nest.map_structure(share, batch))
        seeds, metrics = _seeds(self), self.metrics_variables
        apart = [tf.constant([place * APART, 0], v.dtype) for v in seeds]
        begun = [(v, v.value + a) for v, a in zip(seeds, apart, strict=True)]
        begun += [(v, tf.zeros(v.shape, v.dtype)) for v in metrics]
        begun += [(v, tf.identity(v.value)) for v in _statistics(self)]
        trained = [tf.identity(v.value) for v in self.trainable_weights]
        begun += zip(self.trainable_weights, trained, strict=True)
        with tf.GradientTape() as tape:
            tape.watch(trained)
            with keras.StatelessScope(state_mapping=begun) as scope:
                given = self(x, training=True)
                loss = self.compute_loss(x, y, given, weight)  # this device's part of the sum
                tracker = next(m for m in self.metrics if m.name == "loss")
                tracker.update_state(loss * replicas, sample_weight=tf.shape(x)[0])
            scaled = self.optimizer.scale_loss(loss)
        gradients = tape.gradient(
            scaled, trained, unconnected_gradients=tf.UnconnectedGradients.ZERO
        )
        statistics = [scope.get_current_value(v) / replicas for v in _statistics(self)]
        found = [scope.get_current_value(v) for v in metrics]
        advanced = [scope.get_current_value(v) - a for v, a in zip(seeds, apart, strict=True)]
        once = status if local == 0 else tf.zeros_like(status)  # a machine's, whatever its devices
        return _pack([*gradients, *statistics, *found, once]), advanced


def _seeds(model: keras.Model) -> list[keras.Variable]:
    """The states of drop-out."""
    return [v for v in model.non_trainable_variables if v.name == "seed_generator_state"]


def _statistics(model: keras.Model) -> list[keras.Variable]:
    """Those of batch normalization that change; what is frozen stays, to the bit."""
    return [v for layer in model.layers if layer.trainable for v in layer.non_trainable_weights]


@contextmanager
def _normalizing_together(layers: Sequence[keras.layers.Layer]) -> Iterator[None]:
    """While traced inside, batch normalisation is over all devices; saved networks aren't told."""
    found = [each for each in layers if isinstance(each, keras.layers.BatchNormalization)]
    for layer in found:
        layer.synchronized = True
    try:
        yield
    finally:
        for layer in found:
            layer.synchronized = False


def on_each(bank: ImageBank, cluster: Cluster) -> list[ImageBank]:
    """The images in the memory of each device of this machine."""
    if cluster.local_replicas == 1:
        return [bank]
    assert cluster.strategy is not None
    banks = []
    for device in cluster.strategy.extended.worker_devices:
        with tf.device(device):
            banks.append(
                tf.nest.map_structure(
                    lambda part: tf.identity(part) if tf.is_tensor(part) else part, bank
                )
            )
    return banks


def _pack(tensors: Sequence[tf.Tensor]) -> tf.Tensor:
    return tf.concat([tf.reshape(tf.cast(t, tf.float32), [-1]) for t in tensors], 0)


def _unpack(vector: tf.Tensor, shapes: Sequence[Any]) -> list[tf.Tensor]:
    parts = tf.split(vector, [int(np.prod(shape)) for shape in shapes])
    return [tf.reshape(part, shape) for part, shape in zip(parts, shapes, strict=True)]
