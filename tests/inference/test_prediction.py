"""Overlap-tile prediction equals the network run once over the whole mirrored image."""

from __future__ import annotations

import numpy as np
import pytest

from keras_unet import geometry
from keras_unet.data.normalization import Normalization
from keras_unet.errors import ConfigError, DataError
from keras_unet.inference import tiles
from keras_unet.inference.prediction import predict, to_classes
from keras_unet.models.unet import build_unet


def random_unet(**arguments):
    """A network whose outputs vary over the image: trained-looking statistics, no zero biases."""
    model = build_unet(filters=4, **arguments)
    rng = np.random.default_rng(1)
    for layer in model.layers:
        if layer.weights and "norm" not in layer.name:
            kernel, *bias = layer.get_weights()
            # logits of a trained network's size: rounding grows with them
            kernel = kernel * (0.3 if layer.name == "logits" else 1.0)
            layer.set_weights([kernel, *(rng.normal(0, 0.2, b.shape) for b in bias)])
    return model


def whole(model, image, depth, padding):
    """The definition: mirror the image to a legal size, run the network once, crop."""
    height, width, _ = image.shape
    if padding == "valid":
        before = geometry.margin(depth)
        shape = [geometry.input_size(n, depth) for n in (height, width)]
    else:  # as for a valid network: enough mirrored context that no zero padding is seen
        before = 128
        shape = [n + 2 * before for n in (height, width)]
    rows, columns = (
        tiles.mirrored(-before, total - before, n)
        for total, n in zip(shape, (height, width), strict=True)
    )
    logits = model(image[np.ix_(rows, columns)][None].astype("float32"), training=False).numpy()[0]
    if padding == "same":
        logits = logits[before:-before, before:-before]
    logits = logits[:height, :width]
    if logits.shape[-1] == 1:
        return 1 / (1 + np.exp(-logits))
    exp = np.exp(logits - logits.max(-1, keepdims=True))
    return exp / exp.sum(-1, keepdims=True)


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
