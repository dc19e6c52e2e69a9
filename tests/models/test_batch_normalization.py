"""The fused batch normalization is Keras's: outputs, gradients, moving statistics, saved models."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_unet.models.blocks import FusedBatchNormalization
from keras_unet.models.unet import build_unet

SHAPE = (2, 5, 7, 3)


def pair(**options):
    """Ours and Keras's with the same weights."""
    layers = FusedBatchNormalization(**options), keras.layers.BatchNormalization(**options)
    rng = np.random.default_rng(0)
    for layer in layers:
        layer.build(SHAPE)
    weights = [rng.uniform(0.5, 2.0, w.shape).astype(np.float32) for w in layers[0].weights]
    for layer in layers:
        layer.set_weights(weights)
    return layers


def image(seed=1):
    return tf.constant(np.random.default_rng(seed).normal(3, 2, SHAPE).astype(np.float32))


def operations(layer, x, training=True):
    graph = tf.function(lambda x: layer(x, training=training)).get_concrete_function(x).graph
    return {op.type for op in graph.get_operations()}


def test_training_gives_the_outputs_gradients_and_statistics_of_keras():
    ours, theirs = pair(momentum=0.9, epsilon=1e-2)
    x, outcomes = image(), []
    for layer in (ours, theirs):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True)
            loss = tf.reduce_sum(y**3)
        gradients = tape.gradient(loss, [x, *(v.value for v in layer.trainable_variables)])
        outcomes.append([y, *gradients, *layer.get_weights()])
    for mine, other in zip(*outcomes, strict=True):
        np.testing.assert_allclose(mine, other, rtol=2e-4, atol=2e-4)
    assert "FusedBatchNormV3" in operations(ours, x)
    assert "FusedBatchNormV3" not in operations(theirs, x)


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "mixed_float16"])
def test_half_precision_goes_in_and_out_and_statistics_stay_float32(dtype):
    ours, theirs = pair(dtype=dtype)
    x = tf.cast(image(), ours.compute_dtype)
    mine, other = ours(x, training=True), theirs(x, training=True)
    assert mine.dtype == other.dtype == x.dtype
    np.testing.assert_allclose(tf.cast(mine, "float32"), tf.cast(other, "float32"), atol=0.03)
    for one, another in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        assert one.dtype == np.float32
        np.testing.assert_allclose(one, another, rtol=1e-3)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_weights_of_another_type_than_float32_are_keras_own(dtype):
    ours, theirs = (
        kind(dtype=dtype) for kind in (FusedBatchNormalization, FusedBatchNormalization.__base__)
    )
    x = tf.cast(image(), dtype)
    mine, other = ours(x, training=True), theirs(x, training=True)
    np.testing.assert_array_equal(mine, other)
    for one, another in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_array_equal(one, another)


def test_prediction_and_frozen_layers_are_keras_own():
    ours, theirs = pair()
    np.testing.assert_array_equal(ours(image()), theirs(image()))
    ours.trainable = theirs.trainable = False
    before = ours.get_weights()
    np.testing.assert_array_equal(ours(image(), training=True), theirs(image(), training=True))
    for one, another in zip(before, ours.get_weights(), strict=True):
        np.testing.assert_array_equal(one, another)


@pytest.mark.parametrize(
    "options",
    [
        {"scale": False},
        {"center": False},
        {"axis": 1},
        {"synchronized": True},
        {"dtype": "float64"},
    ],
)
def test_what_the_operation_cannot_do_is_left_to_keras(options):
    ours, theirs = pair(**options)
    np.testing.assert_array_equal(ours(image(), training=True), theirs(image(), training=True))


def test_a_saved_network_comes_back_with_its_layers(tmp_path):
    network = build_unet(filters=2, depth=1, normalization="batch")
    network.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    kinds = {type(layer) for layer in again.layers if "norm" in layer.name}
    assert kinds == {FusedBatchNormalization}
    x = np.random.default_rng(0).normal(size=(1, 60, 60, 1)).astype(np.float32)
    np.testing.assert_array_equal(network(x), again(x))
