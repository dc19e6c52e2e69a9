"""Overlap-tile prediction equals the network run once over the whole mirrored image."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prediction_networks import identity_network, random_unet, whole

from keras_unet import geometry
from keras_unet.data.normalization import Normalization
from keras_unet.errors import ConfigError, DataError
from keras_unet.inference.predictor import predict, to_classes


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize(
    ("size", "depth", "tile"),
    [
        ((301, 477), 4, 380),  # odd, several tiles each way
        ((500, 130), 3, 220),
        ((61, 83), 4, 700),  # smaller than a tile
        ((1, 1), 4, 572),
        ((1, 250), 2, 120),
        ((3, 17), 4, 572),  # narrower than its mirrored margin
    ],
)
def test_tiles_equal_the_whole(size, depth, tile, padding):
    model = random_unet(depth=depth, padding=padding, num_classes=3)
    image = np.random.default_rng(0).normal(size=(*size, 1))
    expected = whole(model, image, depth, padding)
    assert size == (1, 1) or expected.std() > 1e-3
    got = predict(model, image, tile=tile, batch_size=2)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, atol=1e-5)


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("upsampling", ["nearest", "bilinear"])
@pytest.mark.parametrize(("depth", "tile"), [(1, 60), (2, 120), (3, 220)])
def test_upsampling_that_pads_is_exact_too(depth, tile, upsampling, padding):
    model = random_unet(depth=depth, padding=padding, upsampling=upsampling)
    image = np.random.default_rng(0).normal(size=(150, 93, 1))
    expected = whole(model, image, depth, padding, upsampling)
    np.testing.assert_allclose(predict(model, image, tile=tile), expected, atol=1e-5)


@settings(max_examples=30, deadline=None)
@given(
    size=st.tuples(st.integers(1, 400), st.integers(1, 400))
    | st.sampled_from([(1, 1), (3000, 17), (17, 3000), (1, 700), (2, 2)]),
    depth=st.integers(1, 3),
    padding=st.sampled_from(["valid", "same"]),
    channels=st.integers(1, 3),
    more=st.integers(0, 300),
    batch_size=st.none() | st.integers(1, 5),
)
def test_identity_network_gives_the_image_back(size, depth, padding, channels, more, batch_size):
    stride = geometry.stride(depth)
    least = 36 * 2**depth  # every tile from here on can be repeated
    image = np.random.default_rng(0).integers(0, 256, (*size, channels), dtype=np.uint8)
    model = identity_network(depth, padding, channels)
    got = predict(model, image, tile=least + more, batch_size=batch_size)
    np.testing.assert_array_equal(got[..., :channels], image)
    first = -4 % stride if padding == "valid" else 0
    del first
    rows, columns = (n // stride * stride for n in size)  # blocks that lie in the image

    def blocks(array):
        shape = (rows // stride, stride, columns // stride, stride, channels)
        return array[:rows, :columns].reshape(shape)

    largest = blocks(image).max((1, 3), keepdims=True)
    assert (blocks(got[..., channels:]) == largest).all()  # poolings keep the image's phase


@settings(max_examples=12, deadline=None)
@given(
    size=st.tuples(st.integers(1, 160), st.integers(1, 160)),
    depth=st.integers(1, 3),
    padding=st.sampled_from(["valid", "same"]),
    channels=st.integers(1, 3),
    classes=st.integers(1, 4),
    more=st.integers(0, 60),
)
def test_any_image_equals_the_network_run_once(size, depth, padding, channels, classes, more):
    model = random_unet(
        2,
        input_shape=(None, None, channels),
        num_classes=classes,
        depth=depth,
        padding=padding,
    )
    image = np.random.default_rng(0).normal(size=(*size, channels))
    got = predict(model, image, tile=22 * 2**depth + more)
    np.testing.assert_allclose(got, whole(model, image, depth, padding), atol=1e-5)


def test_the_batch_size_changes_nothing():
    model = random_unet(depth=2)
    image = np.random.default_rng(0).normal(size=(200, 150))
    calls = []
    one = predict(model, image, tile=120)
    three = predict(model, image, tile=120, batch_size=3, progress=lambda *a: calls.append(a))
    np.testing.assert_allclose(one, three, atol=1e-5)
    assert calls[-1][0] == calls[-1][1] > 3


def test_a_binary_head_gives_one_probability():
    model = random_unet(depth=2, num_classes=1)
    image = np.random.default_rng(0).normal(size=(60, 50, 1))
    got = predict(model, image)
    assert got.shape == (60, 50, 1)
    np.testing.assert_allclose(got, whole(model, image, 2, "valid"), atol=1e-5)
    np.testing.assert_array_equal(to_classes(got), (got[..., 0] > 0.5).astype(int))


def test_normalisation_uses_the_whole_image_not_the_tile():
    model = random_unet(depth=2)
    ramp = np.linspace(0, 65535, 300 * 90).reshape(300, 90, 1).astype(np.uint16)
    rule = Normalization()
    expected = whole(model, rule(ramp), 2, "valid")
    np.testing.assert_allclose(
        predict(model, ramp, normalization=rule, tile=90), expected, atol=1e-5
    )


def test_bad_images():
    model = random_unet(depth=1)
    with pytest.raises(DataError, match=r"\(20, 20, 3\).*1\]"):
        predict(model, np.zeros((20, 20, 3)))
    with pytest.raises(DataError, match="NaN"):
        predict(model, np.full((20, 20), np.nan))
    with pytest.raises(DataError, match="expected numbers"):
        predict(model, np.full((20, 20), "a"))
    with pytest.raises(ConfigError, match="batch_size"):
        predict(model, np.zeros((20, 20)), batch_size=0)
