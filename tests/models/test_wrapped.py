"""A U-Net inside another model is found where the other adds nothing to it, and else refused."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

from keras_unet.errors import ConfigError
from keras_unet.inference import predict
from keras_unet.models import build_unet, structure, trained_model


class Wrapper(keras.Model):
    """As scripts have it, for a training step of their own."""

    def __init__(self, unet):
        super().__init__()
        self.unet = unet

    def call(self, x, training=None):
        return self.unet(x, training=training)


class Subclass(keras.Model):
    """A functional model with another step."""


def called(unet):
    image = keras.Input(unet.input_shape[1:])
    return keras.Model(image, unet(image))


def cloned(unet):
    twin = keras.models.clone_model(unet)
    twin.set_weights(unet.get_weights())
    return twin


ADDING_NOTHING = {
    "itself": lambda unet: unet,
    "cloned": cloned,
    "called": called,
    "subclass": Wrapper,
    "functional subclass": lambda unet: Subclass(unet.inputs, unet.outputs),
    "sequential": lambda unet: keras.Sequential([unet]),
    "sequential with softmax": lambda unet: keras.Sequential([unet, layers.Softmax()]),
    "softmax after": lambda unet: keras.Model(unet.input, layers.Softmax()(unet.output)),
    "activation after": lambda unet: keras.Model(
        unet.input, layers.Activation("softmax")(unet.output)
    ),
    "twice": lambda unet: Wrapper(called(unet)),
}


@pytest.fixture(scope="module")
def unet():
    return build_unet(filters=2, depth=1, padding="same", name="inner")


@pytest.mark.parametrize("how", ADDING_NOTHING)
def test_what_adds_nothing(how, unet):
    image = np.random.default_rng(0).uniform(size=(30, 41))
    given = ADDING_NOTHING[how](unet)
    np.testing.assert_allclose(predict(given, image), predict(unet, image), atol=1e-6)
    assert structure(trained_model(given).network) == structure(unet)


def test_one_channel_and_fixed_sizes():
    unet = build_unet((44, 60, 3), 1, filters=2, depth=2)
    model = keras.Sequential([unet, layers.Activation("sigmoid")])
    assert trained_model(model).network is unet


def test_what_adds_something_is_refused(unet):
    image = keras.Input((None, None, 1))
    rescaled = keras.Model(image, unet(layers.Rescaling(1 / 255)(image)))
    threshold = keras.Model(unet.input, layers.ReLU()(unet.output))
    lists = keras.Model(unet.input, [unet.output, unet.output])
    for model in (rescaled, Wrapper(rescaled), threshold, lists):
        with pytest.raises(ConfigError, match="does more than the U-Net .* state what is done"):
            trained_model(model)
    two = keras.Model(image, layers.Add()([unet(image), called(cloned(unet))(image)]))
    with pytest.raises(ConfigError, match="contains 2 U-Nets"):
        trained_model(two)
    with pytest.raises(ConfigError, match="not made by keras_unet.build_unet"):
        trained_model(keras.Sequential([keras.Input((8, 8, 1)), layers.Conv2D(2, 3)]))
