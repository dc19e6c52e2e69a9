"""The crops: Keras's numbers, and a gradient that is a padding."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_unet.models.blocks import CropLike, SlicedCropping2D

CROPS: list[Any] = [0, 4, (1, 2), ((0, 3), (2, 1))]


def value_and_gradient(layer: Any, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of the sum of squares of what the layer gives."""
    variable = tf.Variable(x)
    with tf.GradientTape() as tape:
        y = layer(variable)
        loss = tf.reduce_sum(y * y)
    return y.numpy(), tape.gradient(loss, variable).numpy()


@pytest.mark.parametrize("crop", CROPS)
def test_crops_as_keras_does(crop: Any) -> None:
    x = np.random.default_rng(0).normal(size=(2, 11, 13, 3)).astype(np.float32)
    mine, theirs = (value_and_gradient(c(crop), x) for c in (SlicedCropping2D, layers.Cropping2D))
    for a, b in zip(mine, theirs, strict=True):
        np.testing.assert_array_equal(a, b)


def test_channels_first_is_left_to_keras() -> None:
    x = np.random.default_rng(0).normal(size=(1, 2, 9, 9)).astype(np.float32)
    made = SlicedCropping2D(2, data_format="channels_first")(x)
    np.testing.assert_array_equal(made, x[:, :, 2:-2, 2:-2])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_crops_to_the_size_of_another(dtype: str) -> None:
    x = np.random.default_rng(0).normal(size=(2, 9, 8, 3)).astype(np.float32)
    like = tf.zeros((2, 8, 7, 5))
    y, gradient = value_and_gradient(lambda x: CropLike(dtype=dtype)([x, like]), x)
    np.testing.assert_array_equal(y, tf.cast(x[:, :8, :7], dtype))
    inside = np.zeros_like(x)
    inside[:, :8, :7] = 2 * tf.cast(tf.cast(x[:, :8, :7], dtype), "float32").numpy()
    np.testing.assert_allclose(gradient, inside, rtol=0.01)
    np.testing.assert_array_equal(gradient == 0, inside == 0)


def test_an_image_that_is_too_small_is_an_error_or_leaves_nothing_as_in_keras() -> None:
    for size in (7, 8):
        with pytest.raises(ValueError, match="cropping"):
            SlicedCropping2D(4)(np.zeros((1, size, size, 1), np.float32))
    open_size = [tf.TensorSpec((1, None, None, 1), tf.float32)]
    for layer in (SlicedCropping2D(4), layers.Cropping2D(4)):
        crop = tf.function(layer, input_signature=open_size)
        assert crop(tf.zeros((1, 7, 8, 1))).shape == (1, 0, 0, 1)


@pytest.mark.parametrize("size", [20, None])
def test_shapes_are_known_as_far_as_the_inputs_are(size: int | None) -> None:
    x = keras.Input((size, size, 5))
    left = size and size - 6
    assert SlicedCropping2D(3)(x).shape == (None, left, left, 5)
    assert CropLike()([x, keras.Input((size, size, 2))]).shape == (None, size, size, 5)
    concrete = tf.function(SlicedCropping2D(3)).get_concrete_function(
        tf.TensorSpec((None, size, size, 5), tf.float32)
    )
    assert concrete.structured_outputs.shape.as_list() == [None, left, left, 5]


def operations(function: Any, *shapes: tuple[int | None, ...]) -> set[str]:
    specs = [tf.TensorSpec(shape, tf.float32) for shape in shapes]
    graph = tf.function(function).get_concrete_function(*specs).graph
    return {operation.type for operation in graph.get_operations()}


@pytest.mark.parametrize("size", [20, None])
def test_the_gradient_is_a_padding(size: int | None) -> None:
    whole, part = (1, size, size, 3), (1, size and size - 2, size and size - 2, 3)
    crop, like = SlicedCropping2D(1), CropLike()
    found = operations(lambda x: tf.gradients(crop(x), x), whole)
    assert "Pad" in found
    assert "StridedSliceGrad" not in found
    found = operations(lambda x, y: tf.gradients(like([x, y]), x), whole, part)
    assert "Pad" in found
    assert "StridedSliceGrad" not in found


def test_the_gradient_under_xla_is_the_same() -> None:
    x = np.random.default_rng(1).normal(size=(1, 12, 12, 2)).astype(np.float32)
    layer = SlicedCropping2D(2)

    def gradient(x: Any) -> Any:
        return tf.gradients(tf.reduce_sum(layer(x) ** 3), x)[0]

    plain, compiled = (tf.function(gradient, jit_compile=jit)(x) for jit in (False, True))
    np.testing.assert_allclose(plain, compiled, rtol=1e-6)


def test_it_is_saved_and_loaded(tmp_path: Any) -> None:
    x = keras.Input((None, None, 2))
    model = keras.Model(x, SlicedCropping2D(((1, 2), (3, 4)), name="crop")(x))
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    assert type(loaded.get_layer("crop")) is SlicedCropping2D
    image = np.ones((1, 10, 12, 2), np.float32)
    assert loaded(image).shape == (1, 7, 5, 2)
