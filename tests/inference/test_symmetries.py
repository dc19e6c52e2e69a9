"""Test-time augmentation: exact inverses, and the same result for every tiling."""

from __future__ import annotations

import math

import keras
import numpy as np
import pytest
from prediction_networks import identity_network, on_mirrored, random_unet, whole
from scipy.ndimage import map_coordinates

from keras_unet.inference import symmetries
from keras_unet.inference.predictor import predict
from keras_unet.inference.symmetries import ANGLES

SETS = {"flips": symmetries.FLIPS, "all": symmetries.ALL}


@pytest.fixture
def image():
    return np.random.default_rng(0).normal(size=(90, 130, 1)).astype(np.float32)


def test_the_symmetries_are_those_of_the_square_and_undone_exactly():
    x = np.arange(2 * 3 * 5 * 2).reshape(2, 3, 5, 2)
    seen = set()
    for one in symmetries.ALL:
        np.testing.assert_array_equal(one.undo(one.apply(x)), x)
        seen.add((one.apply(x).shape, one.apply(x).tobytes()))
    assert len(seen) == 8
    assert {s.apply(x).shape for s in symmetries.FLIPS} == {x.shape}
    assert set(symmetries.FLIPS) < set(symmetries.ALL)
    assert len(set(symmetries.FLIPS)) == 4


@pytest.mark.parametrize("which", ["flips", "all"])
@pytest.mark.parametrize("padding", ["valid", "same"])
def test_an_identity_network_gives_the_image_back(which, padding, image):
    got = predict(identity_network(2, padding), image, symmetries=which, tile=120)
    np.testing.assert_allclose(got[..., :1], image, atol=1e-6)


@pytest.mark.parametrize("which", ["flips", "all"])
@pytest.mark.parametrize("average", ["probabilities", "logits"])
@pytest.mark.parametrize("upsampling", ["transpose", "bilinear"])
def test_average_over_the_transformed_images(which, average, upsampling):
    # Where an image fills a legal output (4 more than a multiple of the stride) its poolings are
    # symmetric, so that tiles turned one by one must give what the turned images give.
    image = np.random.default_rng(0).normal(size=(1, 84, 132, 1)).astype(np.float32)
    model = random_unet(2, depth=2, num_classes=3, upsampling=upsampling)
    runs = []
    for one in SETS[which]:
        run = on_mirrored(model, one.apply(image)[0], 2, "valid", upsampling)
        run = run if average == "logits" else _softmax(run)
        runs.append(one.undo(run[None])[0])
    assert np.abs(runs[0] - runs[1]).max() > 0.01  # the network is not symmetric
    expected = np.mean(runs, 0) if average == "probabilities" else _softmax(np.mean(runs, 0))
    got = predict(model, image[0], symmetries=which, average=average, tile=100)
    np.testing.assert_allclose(got, expected, atol=1e-5)


@pytest.mark.parametrize("padding", ["valid", "same"])
def test_a_symmetric_network_needs_no_symmetries(padding, image):
    model = random_unet(2, depth=2, padding=padding)
    for layer in model.layers:
        if layer.weights:
            kernel, bias = layer.get_weights()
            stack = np.moveaxis(kernel.reshape(*kernel.shape[:2], 1, -1), 2, 0)
            mean = np.mean([one.apply(stack) for one in symmetries.ALL], 0)
            layer.set_weights([mean.reshape(kernel.shape), bias])
    expected = predict(model, image, tile=120)
    assert expected.std() > 1e-3
    got = predict(model, image, symmetries="all", tile=100 if padding == "valid" else 120)
    np.testing.assert_allclose(got, expected, atol=1e-5)


@pytest.mark.parametrize("output", ["softmax", "sigmoid", None])
def test_logits_of_networks_that_end_in_an_activation(output, image):
    classes = 1 if output == "sigmoid" else 3
    plain = random_unet(2, depth=1, num_classes=classes)
    ended = random_unet(2, depth=1, num_classes=classes, output_activation=output)
    ended.set_weights(plain.get_weights())
    options = {"symmetries": "flips", "average": "logits"}
    expected = predict(plain, image, **options)
    np.testing.assert_allclose(predict(ended, image, **options), expected, atol=1e-4)
    assert np.abs(expected - predict(plain, image, symmetries="flips")).max() > 1e-3


def test_seven_rotations_of_a_plane_are_undone(image):
    # Bilinear interpolation keeps planes; 40 pixels inside no mirrored pixel is seen.
    y, x = np.mgrid[:200, :260].astype(np.float32)
    plane = (0.3 * y - 0.2 * x + 5)[..., None]
    got = predict(identity_network(1), plane, symmetries="rotations7", tile=150)
    assert got.shape == (200, 260, 2)
    np.testing.assert_allclose(got[4:-4, 4:-4, 0], plane[4:-4, 4:-4, 0], atol=1e-4)


@pytest.mark.parametrize("average", ["probabilities", "logits"])
@pytest.mark.parametrize(("padding", "tile", "other"), [("valid", 130, 260), ("same", 150, 300)])
def test_rotations_do_not_depend_on_the_tiles(padding, tile, other, average, image):
    model = random_unet(2, depth=2, padding=padding)
    options = {"symmetries": "rotations7", "average": average}
    one = predict(model, image, tile=tile, **options)
    two = predict(model, image, tile=other, **options)
    np.testing.assert_allclose(one, two, atol=1e-5)
    assert np.abs(one - predict(model, image)).max() > 1e-3


def test_rotations_equal_the_rotated_image_run_once():
    depth, size = 1, (40, 52)
    image = np.random.default_rng(0).normal(size=(*size, 1)).astype(np.float32)
    model = random_unet(2, depth=depth)
    centre = [n // 2 // 2 * 2 for n in size]
    y, x = (
        p - c for p, c in zip(np.mgrid[: size[0], : size[1]].astype(float), centre, strict=True)
    )
    expected = 0.0
    for angle in ANGLES:
        cos, sin = math.cos(angle), math.sin(angle)
        u, v = np.mgrid[-60:64, -60:64].astype(float)
        back = [cos * u + sin * v + centre[0], -sin * u + cos * v + centre[1]]
        turned = map_coordinates(image[..., 0], back, order=1, mode="mirror")
        margin = 8
        output = _softmax(model(turned[None, ..., None].astype(np.float32), training=False)[0])
        places = [cos * y - sin * x + 60 - margin, sin * y + cos * x + 60 - margin]
        expected = expected + np.stack(
            [map_coordinates(output[..., k], places, order=1) / 7 for k in range(2)], -1
        )
    got = predict(model, image, symmetries="rotations7", tile=60)
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_all_symmetries_of_an_odd_image_are_those_of_its_tiles(image):
    # Not a multiple of the stride: what is averaged is the network's and its mirror images' own
    # prediction with the poolings at the unturned phase; still without seams.
    model = random_unet(2, depth=3)
    odd = image[:77, :93]
    np.testing.assert_allclose(
        predict(model, odd, symmetries="all", tile=124),
        predict(model, odd, symmetries="all", tile=400),
        atol=1e-5,
    )
    np.testing.assert_allclose(predict(model, odd), whole(model, odd, 3, "valid"), atol=1e-5)


def _softmax(logits):
    return keras.ops.convert_to_numpy(keras.ops.softmax(logits))
