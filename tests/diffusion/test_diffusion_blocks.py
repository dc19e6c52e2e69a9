"""The blocks against their formulas in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from keras import ops

from keras_unet.diffusion.blocks import Downsample, GroupNorm, ResidualBlock, Sinusoid, nearest

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("groups", [1, 3, 6])
def test_group_norm(groups):
    x = 100.0 + RNG.standard_normal((2, 5, 4, 6))  # a large mean: no variance by E[x²] − E[x]²
    scale, shift = RNG.standard_normal((2, 2, 6))
    layer = GroupNorm(groups, 1e-5, dtype="float64")
    layer.build(x.shape)
    gamma, beta = RNG.standard_normal((2, 6))
    layer.set_weights([gamma, beta])
    grouped = x.reshape(2, 20, groups, 6 // groups)
    mean = grouped.mean((1, 3), keepdims=True)
    deviation = np.sqrt(grouped.var((1, 3), keepdims=True) + 1e-5)
    expected = ((grouped - mean) / deviation).reshape(x.shape) * gamma + beta
    np.testing.assert_allclose(layer(x), expected, atol=1e-11)
    expected = expected * (1 + scale[:, None, None]) + shift[:, None, None]
    np.testing.assert_allclose(layer(x, scale, shift), expected, atol=1e-11)


def test_group_norm_has_float32_statistics_in_bfloat16():
    x = (100.0 + RNG.standard_normal((1, 32, 32, 8))).astype("float32")
    exact, rough = GroupNorm(2, 1e-5), GroupNorm(2, 1e-5, dtype="mixed_bfloat16")
    x = ops.cast(x, "bfloat16")
    difference = ops.cast(rough(x), "float32") - exact(ops.cast(x, "float32"))
    assert float(ops.max(ops.abs(difference))) < 0.02


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(("size", "shift"), [(8, 0), (8, 1), (7, 0)])
def test_sinusoid(size, shift, flip):
    times = np.array([0.0, 1.0, 946.42, 999.0])
    half = size // 2
    frequencies = 10_000.0 ** (-np.arange(half) / (half - shift))
    angles = times[:, None] * frequencies
    waves = [np.sin(angles), np.cos(angles)]
    expected = np.concatenate([*(waves[::-1] if flip else waves)], 1)
    out = np.asarray(Sinusoid(size, flip, shift, dtype="float64")(times))
    np.testing.assert_allclose(out[:, : 2 * half], expected, atol=1e-12)
    assert out.shape == (4, size) and not out[:, 2 * half :].any()


@pytest.mark.parametrize("old", [(1, 1), (2, 3), (5, 4)])
@pytest.mark.parametrize("more", [(0, 0), (-1, -1), (0, -1), (1, 1), (3, 2)])
def test_nearest_is_floor(old, more):
    new = tuple(2 * n + m for n, m in zip(old, more, strict=True))
    x = RNG.standard_normal((2, *old, 3))
    rows, columns = (np.arange(n) * o // n for n, o in zip(new, old, strict=True))
    out = nearest(ops.convert_to_tensor(x), *new)
    np.testing.assert_array_equal(out, x[:, rows][:, :, columns])


@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("size", [(6, 6), (5, 7), (2, 9)])
def test_downsample(size, padding):
    x = RNG.standard_normal((1, *size, 1))
    layer = Downsample(1, padding, dtype="float64")
    layer.build(x.shape)
    kernel = RNG.standard_normal((3, 3, 1, 1))
    layer.set_weights([kernel, np.zeros(1)])
    padded = np.pad(x[0, ..., 0], ((padding, 1), (padding, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3))[::2, ::2]
    out = np.asarray(layer(x))
    np.testing.assert_allclose(out[0, ..., 0], (windows * kernel[..., 0, 0]).sum((2, 3)))
    assert layer.compute_output_shape(x.shape) == out.shape


@pytest.mark.parametrize("resample", [None, "up", "down"])
def test_residual_block_is_its_shortcut_without_its_branch(resample):
    """With the last convolution zero: y = shortcut(x) / output_scale, resampled."""
    x = RNG.standard_normal((1, 4, 6, 8)).astype("float32")
    block = ResidualBlock(8, 4, 1e-5, resample=resample, output_scale=2.0)
    block.build(x.shape, (1, 5))
    block.conv2.set_weights([np.zeros((3, 3, 8, 8)), np.zeros(8)])
    expected = {
        None: x,
        "up": x.repeat(2, 1).repeat(2, 2),
        "down": x.reshape(1, 2, 2, 3, 2, 8).mean((2, 4)),
    }[resample]
    out = block(x, RNG.standard_normal((1, 5)))
    np.testing.assert_allclose(out, expected / 2, rtol=1e-6)
    assert block.compute_output_shape(x.shape) == out.shape
