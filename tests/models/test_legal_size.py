"""A size that a network without padding cannot take is refused by name, wherever it shows."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_unet import geometry
from keras_unet.errors import ConfigError
from keras_unet.models import build_unet

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def network(depth=2, **options):
    model = build_unet(filters=2, depth=depth, **options)
    model.compile("adam", LOSS, jit_compile=False)
    return model


def images(height, width):
    return np.zeros((1, height, width, 1), np.float32)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_every_size_is_legal_or_named(depth):
    model = network(depth)
    first = geometry.input_size(1, depth)
    for size in range(first - 2, first + 2 * geometry.stride(depth) + 1):
        legal = geometry.nearest_sizes(size, depth)
        for shape in ((first, size), (size, first)):
            if legal == (size,):
                output = model(images(*shape)).shape[1:3]
                assert output == geometry.output_size(shape, depth)
                continue
            named = " and ".join(map(str, legal))
            with pytest.raises(ConfigError, match=f'{named}; padding="same" takes any size'):
                model(images(*shape))


def test_fit_and_predict_say_so():
    model, labels = network(), np.zeros((1, 60, 60))
    with pytest.raises(ConfigError, match="size 101 .* nearest legal sizes are 100 and 104"):
        model.fit(images(100, 101), labels, verbose=0)
    for size in (44, 48):  # from the second size on, Keras's graph leaves it open
        model.predict(images(size, size), verbose=0)
    message = r"size \[50 49\] .* nearest legal sizes are \[48 48\] and \[52 52\]"
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        model.predict(images(50, 49), verbose=0)


def test_data_of_open_size():
    model = network()
    spec = (tf.TensorSpec((1, None, None, 1)), tf.TensorSpec((1, None, None)))
    for size, given in ((44, 4), (45, 4)):
        one = [(images(size, size), np.zeros((1, given, given), np.float32))]
        data = tf.data.Dataset.from_generator(lambda one=one: iter(one), output_signature=spec)
        if size == 44:
            model.fit(data, verbose=0)
            continue
        with pytest.raises(tf.errors.InvalidArgumentError, match=r"\[44 44\] and \[48 48\]"):
            model.fit(data, verbose=0)


def test_networks_that_need_no_look_have_none():
    for model in (network(padding="same"), network(input_shape=(44, 48, 1))):
        assert "legal_size" not in [layer.name for layer in model.layers]
    assert network(padding="same")(images(37, 41)).shape == (1, 37, 41, 2)


def test_a_name_that_tensorflow_cannot_use_is_refused():
    for name in ("my net", "_unet", "größe", "a/b", ""):
        with pytest.raises(ConfigError, match="name must be of letters"):
            build_unet(filters=2, depth=1, name=name)
    assert build_unet(filters=2, depth=1, name="U-Net.2").name == "U-Net.2"
