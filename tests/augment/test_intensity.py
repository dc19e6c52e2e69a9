"""Each intensity option against a plain formula or scipy."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from scipy import ndimage, stats

from keras_unet.augment import Augment, sample_seeds
from keras_unet.augment.intensity import (
    Intensity,
    Statistics,
    apply_intensity,
    batch_statistics,
    blur,
    gaussian_noise,
    low_resolution,
)

RNG = np.random.default_rng(0)
IMAGE = RNG.gamma(2.0, 3.0, (2, 24, 30, 2)).astype(np.float32)
NONE = Intensity(*[None] * len(Intensity._fields))
SEEDS = sample_seeds(0, 0, np.arange(2))


def apply(**drawn) -> np.ndarray:
    values = {name: tf.constant(value, tf.float32) for name, value in drawn.items()}
    of = batch_statistics(tf.constant(IMAGE))
    return apply_intensity(tf.constant(IMAGE), NONE._replace(**values), of, SEEDS).numpy()


def test_statistics():
    axes = (1, 2)
    expected = Statistics(IMAGE.mean(axes), IMAGE.std(axes), IMAGE.min(axes), IMAGE.max(axes))
    for found, value in zip(batch_statistics(tf.constant(IMAGE)), expected, strict=True):
        np.testing.assert_allclose(found.numpy(), value, rtol=1e-5)


def test_multiply_brightness_and_contrast():
    factor = np.array([[0.8], [1.3]])
    wide = factor[:, None, None]
    mean, std = (getattr(IMAGE, f)(axis=(1, 2), keepdims=True) for f in ("mean", "std"))
    low, high = (getattr(IMAGE, f)(axis=(1, 2), keepdims=True) for f in ("min", "max"))
    np.testing.assert_allclose(apply(multiply=factor), IMAGE * wide, rtol=1e-5)
    np.testing.assert_allclose(apply(brightness=factor), IMAGE + wide * std, rtol=1e-4)
    bent = np.clip((IMAGE - mean) * wide + mean, low, high)
    np.testing.assert_allclose(apply(contrast=factor), bent, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("inverted", [False, True])
def test_gamma_maps_the_range_onto_itself(inverted):
    exponent = np.array([[0.7, 1.5], [1.2, 0.9]])
    low, high = (getattr(IMAGE, f)(axis=(1, 2), keepdims=True) for f in ("min", "max"))
    part = (IMAGE - low) / (high - low)
    power = exponent[:, None, None]
    curved = 1 - (1 - part) ** power if inverted else part**power
    found = apply(**{"gamma_inverted" if inverted else "gamma": exponent})
    np.testing.assert_allclose(found, curved * (high - low) + low, rtol=1e-3, atol=1e-3)


def test_gamma_follows_a_changed_range():
    # Twice as bright: the range is [2 low, 2 high], and gamma keeps its ends.
    found = apply(multiply=[[2.0], [2.0]], gamma=[[1.4], [1.4]])
    np.testing.assert_allclose(found.max(axis=(1, 2)), 2 * IMAGE.max(axis=(1, 2)), rtol=1e-4)


def test_noise_is_gaussian_independent_and_seeded():
    noise = gaussian_noise(SEEDS, (64, 64, 2)).numpy()
    assert noise.shape == (2, 64, 64, 2)
    assert abs(noise.std() - 1) < 0.02 and abs(noise.mean()) < 0.02
    assert stats.kstest(noise.ravel(), "norm").pvalue > 1e-3
    flat = noise.reshape(2, -1)
    assert abs(np.corrcoef(flat)[0, 1]) < 0.05
    for lag in (1, 2, 64, 128):
        assert abs(np.corrcoef(flat[0, lag:], flat[0, :-lag])[0, 1]) < 0.05
    np.testing.assert_array_equal(noise, gaussian_noise(SEEDS, (64, 64, 2)).numpy())
    added = apply(noise=[[0.5], [0.0]]) - IMAGE
    np.testing.assert_allclose(added[0].std((0, 1)), 0.5 * IMAGE[0].std((0, 1)), rtol=0.1)
    assert (added[1] == 0).all()


def test_blur_is_scipys():
    sigma = np.array([[0.6, 1.0], [0.8, 0.5]], np.float32)
    found = blur(tf.constant(IMAGE), tf.constant(sigma), 8).numpy()
    for b in range(2):
        for c in range(2):
            expected = ndimage.gaussian_filter(
                IMAGE[b, ..., c].astype(np.float64), sigma[b, c], mode="mirror", radius=8
            )
            np.testing.assert_allclose(found[b, ..., c], expected, atol=1e-4)


def test_low_resolution_keeps_constants_and_loses_detail():
    flat = tf.fill((1, 20, 30, 1), 3.0)
    zoom = tf.constant([[0.5]])
    np.testing.assert_allclose(low_resolution(flat, zoom).numpy(), 3.0, rtol=1e-6)
    fine = np.indices((32, 32)).sum(axis=0) % 2
    coarse = low_resolution(tf.constant(fine[None, ..., None], tf.float32), zoom).numpy()
    assert coarse.std() < 0.1 * fine.std()
    slope = np.arange(40, dtype=np.float32)[None, :, None, None] * np.ones((1, 1, 8, 1), np.float32)
    back = low_resolution(tf.constant(slope), tf.constant([[0.5]])).numpy()
    assert np.abs(back - slope)[:, 4:-4].max() <= 0.51
    whole = low_resolution(tf.constant(IMAGE), tf.ones((2, 1))).numpy()
    np.testing.assert_allclose(whole, IMAGE, rtol=1e-5)


def test_per_channel_and_joint():
    image = np.repeat(IMAGE[..., :1], 3, axis=-1)
    joint = Augment(brightness=(-1, 1))(image).numpy()
    np.testing.assert_array_equal(joint[..., 0], joint[..., 2])
    apart = Augment(brightness=(-1, 1), per_channel=True)(image).numpy()
    assert np.abs(apart[..., 0] - apart[..., 2]).min() > 1e-3
