"""Blocks that Keras lacks."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

from keras_unet.models.blocks import BilinearUpSampling2D


def test_bilinear_doubling_equals_keras_and_traces_with_open_sizes():
    x = np.random.default_rng(0).normal(size=(2, 5, 7, 3)).astype("float32")
    layer = BilinearUpSampling2D()
    expected = keras.layers.UpSampling2D(2, interpolation="bilinear")(x)
    np.testing.assert_allclose(layer(x), expected, atol=1e-6)
    graph = tf.function(
        layer, input_signature=[tf.TensorSpec([None, None, None, 3])], autograph=False
    )
    np.testing.assert_allclose(graph(x), expected, atol=1e-6)
    assert layer.compute_output_shape((None, 5, None, 3)) == (None, 10, None, 3)
