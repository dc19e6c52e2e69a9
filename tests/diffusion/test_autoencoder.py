"""The autoencoder: shapes, sampling, scaling, tiles and their seams, files."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from keras_unet.diffusion import Autoencoder, build_autoencoder, kl_divergence
from keras_unet.diffusion.autoencoder import in_tiles, seams, starts
from keras_unet.errors import ConfigError

SMALL = {"filters": (8, 8, 16), "norm_groups": 4, "layers_per_block": 1, "latent_channels": 3}


@pytest.fixture(scope="module")
def autoencoder():
    keras.utils.set_random_seed(0)
    return build_autoencoder((None, None, 1), **SMALL, shift_factor=0.1, scaling_factor=2.0)


def images(height=16, width=24, batch=2):
    return np.random.default_rng(0).uniform(-1, 1, (batch, height, width, 1)).astype("float32")


def test_shapes(autoencoder):
    x = images()
    assert autoencoder.stride == 4
    assert autoencoder.moments(x).shape == (2, 4, 6, 6)
    assert autoencoder.encode(x).shape == (2, 4, 6, 3)
    assert autoencoder.decode(autoencoder.encode(x)).shape == autoencoder(x).shape == x.shape
    assert autoencoder.encode(images(18, 23)).shape == (2, 4, 5, 3)


def test_encode_is_the_mean_or_a_seeded_sample(autoencoder):
    x = images()
    moments = np.asarray(autoencoder.moments(x))
    mean, log_variance = moments[..., :3], moments[..., 3:]
    np.testing.assert_array_equal(autoencoder.encode(x), mean)
    one, again, other = (np.asarray(autoencoder.encode(x, seed=seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert not np.allclose(one, other)
    noise = (one - mean) / np.exp(0.5 * log_variance)
    assert abs(noise.mean()) < 0.3 and 0.7 < noise.std() < 1.3


def test_kl_divergence():
    mean, log_variance = np.random.default_rng(1).standard_normal((2, 3, 4, 4, 2))
    expected = 0.5 * (mean**2 + np.exp(log_variance) - 1 - log_variance).sum((1, 2, 3))
    moments = np.concatenate([mean, log_variance], -1)
    np.testing.assert_allclose(kl_divergence(moments), expected, rtol=1e-6)
    assert float(kl_divergence(np.zeros((1, 2, 2, 4)))[0]) == 0


def test_scale(autoencoder):
    z = np.asarray(autoencoder.encode(images()))
    np.testing.assert_allclose(autoencoder.scale(z), (z - 0.1) * 2.0, rtol=1e-6)
    np.testing.assert_allclose(autoencoder.unscale(autoencoder.scale(z)), z, atol=1e-6)


@pytest.mark.parametrize("size", [8, 9, 21, 30])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5])
def test_tiles_of_a_pointwise_network_are_the_whole(size, overlap):
    """What needs no context has no seams, whatever the size: up, down, and as it is."""
    x = np.random.default_rng(0).standard_normal((2, size, size + 5, 3))

    def up(x):
        return (2 * x).repeat(4, 1).repeat(4, 2)

    def down(x):
        return x[:, : x.shape[1] // 4 * 4 : 4, : x.shape[2] // 4 * 4 : 4]

    np.testing.assert_allclose(in_tiles(up, x, 8, overlap, up=4), up(x))
    np.testing.assert_allclose(in_tiles(down, x, 8, overlap, down=4), down(x))


@pytest.mark.parametrize("size", [5, 8, 9, 23, 64])
def test_tiles_cover(size):
    for tile in (4, 8, 16):
        begins = starts(size, tile, 0.25)
        covered = {i for begin in begins for i in range(begin, min(begin + tile, size))}
        assert covered == set(range(size))


def test_seams_are_measured_and_blending_lowers_them(autoencoder):
    z = np.random.default_rng(2).standard_normal((1, 32, 32, 3)).astype("float32")
    whole = autoencoder.decode(z)
    cut, blended = (autoencoder.decode(z, tile=16, overlap=o) for o in (0.0, 0.5))
    assert cut.shape == blended.shape == whole.shape
    hard, soft = seams(cut, whole, 64, 0.0), seams(blended, whole, 64, 0.5)
    assert hard["seam"] > 1.3 * hard["inside"]  # visible
    assert soft["seam"] < 1.1 * soft["inside"]  # not: no step where tiles meet
    assert seams(whole, whole, 64, 0.5) == {"rms": 0, "seam": 0, "inside": 0}


def test_encoding_in_tiles(autoencoder):
    x = images(64, 50, batch=1)
    tiled, whole = autoencoder.moments(x, tile=32), autoencoder.moments(x)
    assert tiled.shape == whole.shape
    assert seams(tiled, whole, 8)["rms"] < 0.7
    assert autoencoder.encode(x, seed=1, tile=32).shape == (1, 16, 12, 3)


def test_bad_tiles(autoencoder):
    with pytest.raises(ConfigError, match="tile must be a positive multiple of 4, got 30"):
        autoencoder.encode(images(), tile=30)
    with pytest.raises(ConfigError, match=r"overlap must be in \[0, 0.5\], got 0.7"):
        autoencoder.decode(np.zeros((1, 4, 4, 3)), tile=2, overlap=0.7)


def test_saved_and_loaded(tmp_path, autoencoder):
    autoencoder.save(tmp_path / "autoencoder.keras")
    again = keras.models.load_model(tmp_path / "autoencoder.keras")
    assert isinstance(again, Autoencoder) and again.options == autoencoder.options
    np.testing.assert_array_equal(again(images()), autoencoder(images()))


@pytest.mark.parametrize("dtype", ["float64", "mixed_bfloat16"])
def test_precision(autoencoder, dtype):
    other = build_autoencoder((None, None, 1), **SMALL, dtype=dtype)
    other.set_weights(autoencoder.get_weights())
    out = other.decode(other.encode(images()))
    assert str(np.asarray(out).dtype) == ("float64" if dtype == "float64" else "float32")
    np.testing.assert_allclose(out, autoencoder(images()), atol=0.2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"filters": (10,)}, "must divide by norm_groups"),
        ({"latent_channels": 0}, "latent_channels must be an integer >= 1, got 0"),
        ({"scaling_factor": 0}, "scaling_factor must be positive"),
        ({"input_shape": (8, 8)}, "input_shape must be"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ConfigError, match=message):
        build_autoencoder(**{**SMALL, **options})
