"""Losses and gradients on one device and on two of this machine: run by test_losses_on_devices."""

from __future__ import annotations

import itertools
import json
import sys

import keras
import numpy as np
import tensorflow as tf

from keras_unet.losses import Dice, Focal, Sum, WeightedCrossEntropy
from keras_unet.metrics import MeanIoU

SHAPE, CLASSES = (4, 6, 5), 3
IGNORED = {"some": np.s_[0, :4], "a device's": np.s_[:2], "all": np.s_[:], "none": np.s_[:0]}


def batch(ignored: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, SHAPE).astype(np.int32)
    labels[IGNORED[ignored]] = 255
    logits = rng.normal(0, 2, (*SHAPE, CLASSES)).astype(np.float32)
    return labels, logits, rng.uniform(0.1, 4, SHAPE).astype(np.float32)


def losses() -> dict[str, keras.losses.Loss]:
    ignored = {"ignore_class": 255}
    divided = {**ignored, "reduction": "mean_with_sample_weight"}
    return {
        "entropy": WeightedCrossEntropy(class_weights=(1, 2, 3), **ignored),
        "entropy divided": WeightedCrossEntropy(class_weights=(1, 2, 3), **divided),
        "focal sum": Focal(**ignored, reduction="sum"),
        "dice": Dice(class_weights=(0, 1, 2), **ignored),
        "dice sum": Dice(**ignored, reduction="sum"),
        "dice sample": Dice(over="sample", **divided),
        "sum": Sum([WeightedCrossEntropy(**ignored), Dice(**ignored)], [1, 0.5]),
    }


def compare(strategy: tf.distribute.Strategy) -> dict[str, list[float]]:
    """Largest differences of the loss and its gradient from those of one device, by case."""

    def step(loss, labels, logits, weight):
        with tf.GradientTape() as tape:
            tape.watch(logits)
            value = loss(labels, logits, weight)
        return value, tape.gradient(value, logits)

    both = tf.function(lambda *given: strategy.run(step, args=given))
    found = {}
    for (name, loss), kind in itertools.product(losses().items(), IGNORED):
        parts = [tf.constant(part) for part in batch(kind)]
        value, gradient = step(loss, *parts)
        halves = [
            strategy.experimental_distribute_values_from_function(
                lambda at, part=part: tf.split(part, 2)[at.replica_id_in_sync_group]
            )
            for part in parts
        ]
        values, gradients = both(loss, *halves)
        values = strategy.experimental_local_results(values)
        together = tf.concat(strategy.experimental_local_results(gradients), 0)
        apart = abs(float(tf.add_n(values)) - float(value)) / max(abs(float(value)), 1.0)
        found[f"{name}, {kind} ignored"] = [
            apart,
            float(tf.reduce_max(tf.abs(together - gradient))),
        ]
    return found


def fit(strategy: tf.distribute.Strategy) -> dict[str, list[float]]:
    """What Keras's `fit` and `evaluate` report; the last batch has fewer images."""
    keras.utils.set_random_seed(0)
    labels, logits, weight = (np.concatenate([part, part[:3]]) for part in batch("a device's"))
    with strategy.scope():
        inputs = keras.Input((None, None, CLASSES))
        model = keras.Model(inputs, keras.layers.Conv2D(CLASSES, 3, padding="same")(inputs))
        loss = Sum([WeightedCrossEntropy(ignore_class=255), Dice(ignore_class=255)])
        metric = MeanIoU(ignore_class=255)
        model.compile(keras.optimizers.SGD(0.1), loss, weighted_metrics=[metric])
    options = {"batch_size": 4, "sample_weight": weight, "verbose": 0}
    done = model.fit(logits, labels, epochs=2, shuffle=False, **options).history
    scores = model.evaluate(logits, labels, **options)
    return {"fit": [*done["loss"], *done["mean_iou"]], "evaluate": scores}


if __name__ == "__main__":
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    two = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    one = tf.distribute.get_strategy()
    json.dump({"grid": compare(two), "one": fit(one), "two": fit(two)}, sys.stdout)
