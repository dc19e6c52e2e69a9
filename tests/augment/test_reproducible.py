"""The same seed gives the same sample, wherever and however it is made."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_unet.augment import Augment, sample_seeds
from keras_unet.augment.image_bank import ImageBank

RNG = np.random.default_rng(0)
IMAGES = [
    RNG.integers(0, 256, (h, w, 1)).astype(np.uint8) for h, w in ((40, 50), (33, 60), (21, 20))
]
LABELS = [(image[..., 0] // 50).astype(np.int32) for image in IMAGES]
WEIGHTS = [RNG.random(label.shape).astype(np.float32) for label in LABELS]


@pytest.fixture(scope="module")
def bank() -> ImageBank:
    return ImageBank.from_arrays(IMAGES, LABELS, WEIGHTS, shift=100.0, scale=0.02)


@pytest.fixture(scope="module")
def layer() -> Augment:
    return Augment.from_preset("paper", tile=32, output=16, noise=(0.1, 0.2), noise_p=0.5)


def dataset(bank: ImageBank, layer: Augment, batch: int, parallel: int) -> tf.data.Dataset:
    def draw(first):
        number = first * batch + tf.range(batch, dtype=tf.int64)
        return layer.sample(bank, number % 3, sample_seeds(9, 4, number))

    return tf.data.Dataset.range(24 // batch).map(draw, num_parallel_calls=parallel)


def collect(data: tf.data.Dataset) -> list[np.ndarray]:
    batches = list(data.as_numpy_iterator())
    return [np.concatenate(part) for part in zip(*batches, strict=True)]


def test_same_bytes_over_one_two_and_four_parallel_calls(bank, layer):
    found = [collect(dataset(bank, layer, 4, parallel)) for parallel in (1, 2, 4)]
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            assert a.tobytes() == b.tobytes()


def test_same_in_a_pipeline_on_direct_call_and_in_a_jitted_step(bank, layer):
    piped = collect(dataset(bank, layer, 4, 2))
    seeds = sample_seeds(9, 4, np.arange(24))
    direct = layer.sample(bank, np.arange(24) % 3, seeds)

    @tf.function(jit_compile=True)
    def step(index, seeds):
        # Something around it, so that the compiler has other work to merge it with.
        image, label, weight = layer.sample(bank, index, seeds)
        return image, label, weight, tf.reduce_mean(image * 2.0)

    stepped = step(tf.range(24) % 3, seeds)
    for other in (direct, stepped[:3]):
        np.testing.assert_allclose(piped[0], other[0].numpy(), atol=1e-4)
        np.testing.assert_array_equal(piped[1], other[1].numpy())
        np.testing.assert_allclose(piped[2], other[2].numpy(), atol=1e-4)


def test_a_sample_does_not_depend_on_its_batch(bank, layer):
    whole = collect(dataset(bank, layer, 8, 1))
    alone = collect(dataset(bank, layer, 1, 1))
    np.testing.assert_array_equal(whole[1], alone[1])
    np.testing.assert_allclose(whole[0], alone[0], atol=1e-4)


def test_unknown_sizes_in_a_pipeline():
    def examples():
        for image, label in zip(IMAGES, LABELS, strict=True):
            yield image[None], label[None]

    signature = (
        tf.TensorSpec((None, None, None, 1), tf.uint8),
        tf.TensorSpec((None, None, None), tf.int32),
    )
    layer = Augment.from_preset("paper")
    data = tf.data.Dataset.from_generator(examples, output_signature=signature)
    seeds = sample_seeds(1, 0, 0)
    for k, (image, label) in enumerate(data.map(lambda x, y: layer(x, y, seeds=seeds))):
        expected = layer(IMAGES[k][None], LABELS[k][None], seeds=seeds)
        np.testing.assert_allclose(image.numpy(), expected[0].numpy(), atol=2e-2)
        assert np.mean(label.numpy() == expected[1].numpy()) > 0.999


def test_inside_fit(bank):
    inputs = keras.Input((16, 16, 1))
    outputs = keras.layers.Conv2D(2, 1)(Augment.from_preset("flips")(inputs))
    model = keras.Model(inputs, outputs)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(True), jit_compile=True)
    x = RNG.random((4, 16, 16, 1)).astype(np.float32)
    model.fit(x, np.zeros((4, 16, 16), np.int32), batch_size=2, verbose=0)
    # predict() leaves the image alone.
    kernel, bias = model.layers[-1].get_weights()
    np.testing.assert_allclose(model.predict(x, verbose=0), x @ kernel[0, 0] + bias, atol=1e-5)
