"""Gradients that are no numbers: seen, named, and bounded where float16 leaves their steps out."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from keras_unet.errors import TrainingError
from keras_unet.training.callbacks import StopWhereNotFinite
from keras_unet.training.step import FINITE, TrainingStep


@pytest.mark.parametrize("scaled", [False, True])
def test_a_gradient_that_is_no_number_is_seen_unless_it_is_left_out(scaled):
    inputs = keras.Input((2,))
    network = keras.Model(inputs, keras.layers.Dense(2)(inputs))
    optimizer = keras.optimizers.SGD(0.1)
    step = TrainingStep(network)
    step.compile(
        keras.optimizers.LossScaleOptimizer(optimizer) if scaled else optimizer,
        loss=lambda truth, given: keras.ops.sqrt(keras.ops.sum(0.0 * given)),  # its slope is inf
    )
    logs = step.train_on_batch(np.ones((1, 2)), np.ones((1, 2)), return_dict=True)
    assert np.isfinite(logs["loss"])
    assert logs[FINITE] == float(scaled)


def test_a_gathered_gradient_that_is_no_number_is_seen_before_it_is_used():
    inputs = keras.Input((2,))
    step = TrainingStep(keras.Model(inputs, keras.layers.Dense(2)(inputs)))
    step.compile(
        keras.optimizers.SGD(0.1, gradient_accumulation_steps=4),
        loss=lambda truth, given: keras.ops.sqrt(keras.ops.sum(0.0 * given)),
    )
    logs = step.train_on_batch(np.ones((1, 2)), np.ones((1, 2)), return_dict=True)
    assert all(np.isfinite(w).all() for w in step.get_weights())
    assert logs[FINITE] == 0.0


def test_steps_left_out_again_and_again_end_the_run():
    inputs = keras.Input((2,))
    step = TrainingStep(keras.Model(inputs, keras.layers.Dense(2)(inputs)))
    step.compile(
        keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1), initial_scale=8.0),
        loss=lambda truth, given: keras.ops.sqrt(keras.ops.sum(0.0 * given)),
    )
    step.optimizer.build(step.trainable_variables)
    done = iter(range(100))
    watch = StopWhereNotFinite(lambda batch: [f"{batch % 2}.png"], lambda: next(done), lambda: "")
    with pytest.raises(
        TrainingError, match=r"overflow float16: 4 steps .* 0\.png \(2 times\), 1\.png \(2 times\)"
    ):
        step.fit(np.ones((50, 2)), np.ones((50, 2)), batch_size=1, verbose=0, callbacks=[watch])
    assert all(np.isfinite(w).all() for w in step.get_weights())
