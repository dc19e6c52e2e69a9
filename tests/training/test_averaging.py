"""The moving average of weights against its formula, and what training sees of it: nothing."""

from __future__ import annotations

import numpy as np
import pytest

from keras_unet import build_unet


def start(accumulate=1, scaled=False, decay=0.5, policy=None):
    import keras

    from keras_unet.training.step import WeightAverage

    keras.utils.set_random_seed(0)
    network = build_unet(filters=2, depth=1, padding="same", normalization="batch", dtype=policy)
    optimizer = keras.optimizers.SGD(
        0.1, gradient_accumulation_steps=accumulate if accumulate > 1 else None
    )
    if scaled:
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=8.0)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    network.compile(optimizer, loss, jit_compile=False)
    optimizer.build(network.trainable_variables)
    return network, optimizer, WeightAverage(network, optimizer, decay)


def batches(count):
    rng = np.random.default_rng(0)
    return [
        (rng.random((1, 8, 8, 1), np.float32), rng.integers(0, 2, (1, 8, 8))) for _ in range(count)
    ]


def values(network):
    return [np.array(w) for w in network.get_weights()]


@pytest.mark.parametrize("policy", [None, "mixed_bfloat16"])
def test_the_average_follows_its_formula(policy):
    network, _, average = start(decay=0.3, policy=policy)
    expected = values(network)
    for t, (x, y) in enumerate(batches(4), start=1):
        network.train_on_batch(x, y)
        average.on_train_batch_end(t)
        d = min(0.3, (1 + t) / (10 + t))
        expected = [d * a + (1 - d) * w for a, w in zip(expected, values(network), strict=True)]
    found = values(average.network())
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    # among them the statistics of the batches, which are no trainable weights
    differ = [
        n
        for n, (a, b) in enumerate(zip(found, values(network), strict=True))
        if not np.allclose(a, b)
    ]
    statistics = [n for n, w in enumerate(network.weights) if "moving" in w.path]
    assert set(statistics) <= set(differ)


def test_training_does_not_see_it():
    import keras

    network, _, average = start()
    for x, y in batches(3):
        network.train_on_batch(x, y)
        average.on_train_batch_end(0)
        average.network()
    with_it = values(network)
    keras.backend.clear_session()
    network, *_ = start()
    for x, y in batches(3):
        network.train_on_batch(x, y)
    for a, b in zip(with_it, values(network), strict=True):
        np.testing.assert_array_equal(a, b)


def test_it_moves_once_for_each_change_of_the_weights():
    network, _, average = start(accumulate=3)
    trainable = [n for n, w in enumerate(network.weights) if w.trainable]
    begun = values(network)
    for number, (x, y) in enumerate(batches(3)):
        network.train_on_batch(x, y)
        average.on_train_batch_end(number)
        if number < 2:
            for n in trainable:
                np.testing.assert_array_equal(values(average.network())[n], begun[n])
    d = min(0.5, 2 / 11)
    for n in trainable:
        expected = d * begun[n] + (1 - d) * values(network)[n]
        np.testing.assert_allclose(values(average.network())[n], expected, rtol=1e-5, atol=1e-7)


def test_a_step_left_out_for_overflow_changes_nothing():
    network, _, average = start(scaled=True)
    ((x, y),) = batches(1)
    network.train_on_batch(x, y)
    average.on_train_batch_end(0)
    before = values(average.network())
    network.train_on_batch(x * np.inf, y)
    average.on_train_batch_end(1)
    trainable = [n for n, w in enumerate(network.weights) if w.trainable]
    for n in trainable:
        np.testing.assert_array_equal(values(average.network())[n], before[n])


def test_the_optimizers_variables_hold_all_of_it():
    """What a checkpoint keeps, put into a new process's objects, goes on to the same average."""
    import keras

    network, optimizer, average = start()
    data = batches(4)
    for x, y in data[:2]:
        network.train_on_batch(x, y)
        average.on_train_batch_end(0)
    kept = [keras.ops.convert_to_numpy(v) for v in [*network.variables, *optimizer.variables]]
    for x, y in data[2:]:
        network.train_on_batch(x, y)
        average.on_train_batch_end(0)
    expected = values(average.network())

    network, optimizer, average = start()
    for variable, value in zip([*network.variables, *optimizer.variables], kept, strict=True):
        variable.assign(value)
    for x, y in data[2:]:
        network.train_on_batch(x, y)
        average.on_train_batch_end(0)
    for a, b in zip(values(average.network()), expected, strict=True):
        np.testing.assert_array_equal(a, b)
