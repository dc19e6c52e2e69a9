"""Headers are read right, and before any pixel."""

from __future__ import annotations

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_unet.data.graph_images import decode, few_enough, header


def file(mode, size=(7, 5), kind="PNG", **options):
    rng = np.random.default_rng(0)
    width, height = size
    if mode == "I;16":
        pixels = rng.integers(0, 65535, (height, width)).astype(np.uint16)
        picture = Image.fromarray(pixels)
    else:
        pixels = rng.integers(0, 255, (height, width, 3)).astype(np.uint8)
        picture = Image.fromarray(pixels).convert(mode)
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


@pytest.mark.parametrize(
    ("data", "bits"),
    [
        (file("L"), 8),
        (file("RGB"), 8),
        (file("P"), 8),
        (file("1"), 1),
        (file("I;16"), 16),
        (file("L", kind="JPEG"), 8),
        (file("RGB", kind="JPEG", progressive=True), 8),
    ],
)
def test_headers(data, bits):
    assert [int(x) for x in tf.function(header)(tf.constant(data))] == [5, 7, bits]


@pytest.mark.parametrize("mode", ["L", "RGB", "P", "1", "I;16", "LA", "RGBA"])
def test_pixels_are_those_of_other_decoders(mode):
    data = file(mode)
    pixels, _ = tf.function(lambda d: decode(d, 3))(tf.constant(data))
    picture = Image.open(io.BytesIO(data))
    if mode == "I;16":
        expected = np.repeat(np.asarray(picture, np.uint16)[..., None], 3, -1)
    else:
        expected = np.asarray(picture.convert("RGB"))
    np.testing.assert_array_equal(pixels, expected)
    assert pixels.dtype == tf.uint16


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_jpegs_are_decoded_accurately(mode):
    data = file(mode, (64, 40), "JPEG", quality=80)
    channels = 1 if mode == "L" else 3
    pixels, _ = tf.function(lambda d: decode(d, channels))(tf.constant(data))
    expected = np.asarray(Image.open(io.BytesIO(data))).reshape(40, 64, channels)
    np.testing.assert_array_equal(pixels, expected)


@pytest.mark.parametrize(
    ("height", "width", "fits"),
    [
        (1, 100, True),
        (10, 10, True),
        (10, 11, False),
        (0, 5, False),
        (-1, -5, False),
        (2**32 - 1, 2**32 - 1, False),  # the product is negative in int64
        (2**32, 2**32, False),  # and 0
    ],
)
def test_no_size_overflows(height, width, fits):
    numbers = tf.constant([height, width], tf.int64)
    assert bool(few_enough(numbers[0], numbers[1], 100)) == fits
