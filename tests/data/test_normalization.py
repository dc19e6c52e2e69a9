"""Normalisation: its formula, its edge cases, and that it survives storage."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from keras_unet.data.normalization import Normalization
from keras_unet.errors import ConfigError, DataError


@st.composite
def images(draw, channels=None):
    dtype = draw(st.sampled_from([np.uint8, np.uint16, np.int16, np.float32]))
    shape = (
        draw(st.integers(1, 12)),
        draw(st.integers(1, 12)),
        channels or draw(st.integers(1, 4)),
    )
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    low, high = sorted(draw(st.tuples(st.integers(0, 250), st.integers(0, 250))))
    return (low + (high - low) * rng.random(shape)).astype(dtype)


@settings(max_examples=60, deadline=None)
@given(images())
def test_image_gives_mean_0_and_std_1_or_zeros(image):
    out = Normalization()(image)
    assert out.dtype == np.float32 and out.shape == image.shape
    for c in range(image.shape[2]):
        exact = image[..., c].astype(np.float64)
        if exact.min() == exact.max():
            assert not out[..., c].any()
        else:
            expected = (exact - exact.mean()) / exact.std()
            np.testing.assert_allclose(out[..., c], expected, atol=2e-4 * abs(expected).max())


@settings(max_examples=40, deadline=None)
@given(st.lists(images(channels=2), min_size=1, max_size=5), st.sampled_from(["image", "dataset"]))
def test_call_is_shift_and_scale_and_survives_json(batch, method):
    rule = Normalization.fit(method, batch)
    again = Normalization.model_validate_json(rule.model_dump_json())
    assert again == rule
    for image in batch:
        shift, scale = again.parameters(image)
        assert shift.dtype == scale.dtype == np.float32 and shift.shape == scale.shape == (2,)
        expected = (image.astype(np.float32) - shift) * scale
        np.testing.assert_array_equal(rule(image), expected)


@settings(max_examples=40, deadline=None)
@given(st.lists(images(channels=3), min_size=1, max_size=6))
def test_dataset_pools_all_pixels(batch):
    rule = Normalization.fit("dataset", iter(batch))
    pixels = np.concatenate([image.reshape(-1, 3).astype(np.float64) for image in batch])
    np.testing.assert_allclose(rule.mean, pixels.mean(0), rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(rule.std, pixels.std(0), rtol=1e-7, atol=1e-7)


def test_float64_accumulation_on_a_large_offset():
    rng = np.random.default_rng(0)
    image = (60000 + rng.integers(0, 3, (1500, 1500, 1))).astype(np.uint16)
    out = Normalization()(image)
    assert abs(float(out.mean(dtype=np.float64))) < 5e-3  # half a step of float32 at 60000
    assert float(out.std(dtype=np.float64)) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("value", [0, 7, 255])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_constant_images_give_zeros(value, dtype):
    image = np.full((5, 6, 2), value, dtype)
    for rule in (Normalization(), Normalization.fit("dataset", [image])):
        assert not rule(image).any()


def test_a_float_copy_is_normalised_like_the_stored_image():
    image = np.random.default_rng(1).integers(0, 4000, (20, 20, 1)).astype(np.uint16)
    np.testing.assert_array_equal(Normalization()(image), Normalization()(image.astype(np.float32)))


def test_a_channel_that_never_varied_in_training_stays_zero():
    rng = np.random.default_rng(0)
    train = rng.integers(0, 255, (8, 8, 2)).astype(np.uint8)
    train[..., 1] = 40
    rule = Normalization.fit("dataset", [train])
    out = rule(rng.integers(0, 255, (8, 8, 2)).astype(np.uint8))
    assert out[..., 0].any() and not out[..., 1].any()


def test_range_divides_by_the_training_dtype():
    small = np.array([[[0], [255]]], np.uint8)
    rule = Normalization.fit("range", [small])
    np.testing.assert_allclose(rule(small)[0, :, 0], [0, 1])
    assert Normalization.fit("range", [small.astype(np.uint16)]).scale == 65535
    assert Normalization.fit("range", [np.zeros((2, 2, 1), np.float32)]).scale == 1
    with pytest.raises(DataError, match="up to 256; expected at most 255"):
        rule(np.full((1, 1, 1), 256, np.uint16))
    with pytest.raises(DataError, match='0 to 255; "range" expects 0 to 1'):
        Normalization.fit("range", [small.astype(np.float32)])
    with pytest.raises(DataError, match="expected one dtype"):
        Normalization.fit("range", [small, small.astype(np.uint16)])


def test_wrong_images_are_refused():
    rule = Normalization.fit("dataset", [np.eye(4, dtype=np.uint8)[..., None]])
    with pytest.raises(DataError, match="3 channels; expected 1"):
        rule(np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(DataError, match=r"shape \(4, 4\); expected \[height"):
        rule(np.zeros((4, 4), np.uint8))
    with pytest.raises(DataError, match="NaN"):
        Normalization()(np.full((2, 2, 1), np.nan, np.float32))
    with pytest.raises(DataError, match="no images"):
        Normalization.fit("dataset", [])
    with pytest.raises(DataError, match="1 and with 2 channels"):
        Normalization.fit("dataset", [np.zeros((2, 2, 1)), np.zeros((2, 2, 2))])


@pytest.mark.parametrize(
    "fields",
    [
        {"method": "dataset"},
        {"method": "dataset", "mean": (1.0,), "std": (1.0, 2.0)},
        {"method": "dataset", "mean": (1.0,), "std": (-1.0,)},
        {"method": "range"},
        {"method": "range", "scale": 0.0},
        {"method": "image", "scale": 255.0},
        {"method": "image", "mean": (1.0,)},
        {"method": "zscore"},
        {"method": "image", "strange": 1},
    ],
)
def test_fields_that_do_not_fit(fields):
    with pytest.raises(ValidationError):
        Normalization(**fields)


def test_unknown_method_in_fit():
    with pytest.raises(ConfigError, match="'zscore'; expected \"image\""):
        Normalization.fit("zscore", [])
