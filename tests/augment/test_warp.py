"""The resampling against scipy, at any size, with mirrored borders."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from keras_unet.augment import dense_warp
from keras_unet.errors import DataError


def places(displacement: np.ndarray) -> np.ndarray:
    """Coordinates [2, H, W] in float64 of a displacement [H, W, 2]."""
    return (
        np.moveaxis(displacement.astype(np.float64), -1, 0)
        + np.mgrid[: displacement.shape[0], : displacement.shape[1]]
    )


@settings(max_examples=10, deadline=None)
@given(
    size=st.tuples(st.integers(1, 24), st.integers(1, 24)),
    reach=st.sampled_from([0.4, 3.0, 70.0]),
    seed=st.integers(0, 1000),
)
def test_equals_scipy_at_every_pixel_and_size(size, reach, seed):
    rng = np.random.default_rng(seed)
    image = rng.random((2, *size, 2), np.float32)
    label = rng.integers(0, 60_000, (2, *size)).astype(np.uint16)
    displacement = rng.normal(0, reach, (2, *size, 2)).astype(np.float32)
    warped, new = (value.numpy() for value in dense_warp(image, displacement, label))
    assert new.dtype == np.uint16
    for b in range(2):
        where = places(displacement[b])
        for c in range(2):
            expected = ndimage.map_coordinates(image[b, ..., c], where, order=1, mode="mirror")
            np.testing.assert_allclose(warped[b, ..., c], expected, atol=1e-4)
        # Nearest: scipy may decide a place halfway between two pixels the other way.
        clear = (np.abs(where % 1 - 0.5) > 1e-4).all(axis=0)
        expected = ndimage.map_coordinates(label[b], where, order=0, mode="mirror")
        np.testing.assert_array_equal(new[b][clear], expected[clear])


def test_bicubic_is_cubic_convolution_and_mirrors():
    rng = np.random.default_rng(1)
    y, x = np.mgrid[:20, :24]
    plane = (0.1 * y * y - 0.3 * x * y + x).astype(np.float32)[None, ..., None]
    displacement = rng.uniform(-0.9, 0.9, (1, 20, 24, 2)).astype(np.float32)
    warped = dense_warp(plane, displacement, interpolation="bicubic").numpy()[0, 2:-2, 2:-2, 0]
    v, u = (value[2:-2, 2:-2] for value in places(displacement[0]))
    # Keys' kernel with a = -1/2 reproduces quadratics.
    np.testing.assert_allclose(warped, 0.1 * v * v - 0.3 * u * v + u, atol=2e-3)
    image = rng.random((1, 6, 5, 1), np.float32)
    far = rng.normal(0, 5, (1, 6, 5, 2)).astype(np.float32)
    padded = np.pad(image, [(0, 0), (60, 60), (60, 60), (0, 0)], mode="reflect")
    wide = np.zeros((1, 126, 125, 2), np.float32)
    wide[:, 60:-60, 60:-60] = far
    inner = dense_warp(padded, wide, interpolation="bicubic").numpy()[:, 60:-60, 60:-60]
    outer = dense_warp(image, far, interpolation="bicubic").numpy()
    np.testing.assert_allclose(outer, inner, atol=2e-5)


def test_whole_pixel_shifts_copy_exactly_also_floats():
    image = np.random.default_rng(0).normal(0, 1e4, (1, 9, 7, 3)).astype(np.float32)
    displacement = np.zeros((1, 9, 7, 2), np.float32) + np.array([2, -3], np.float32)
    rows = np.abs(np.arange(9) + 2)
    rows = np.where(rows > 8, 16 - rows, rows)
    columns = np.abs(np.arange(7) - 3)
    expected = image[:, rows][:, :, columns]
    for interpolation in ("bilinear", "bicubic"):
        warped = dense_warp(image, displacement, interpolation=interpolation).numpy()
        np.testing.assert_array_equal(warped, expected)


def test_weight_is_bilinear_float32():
    weight = np.arange(12, dtype=np.float64).reshape(1, 3, 4)
    half = np.full((1, 3, 4, 2), (0.0, 0.5), np.float32)
    _, new = dense_warp(weight[..., None], half, weight=weight)
    np.testing.assert_allclose(new[0, 1].numpy(), [4.5, 5.5, 6.5, 6.5])


def test_wrong_shapes_are_named():
    with pytest.raises(DataError, match=r"displacement.*\(1, 4, 4, 1\) and \(1, 4, 5, 2\)"):
        dense_warp(np.zeros((1, 4, 4, 1)), np.zeros((1, 4, 5, 2)))
    with pytest.raises(DataError, match="found 'nearest'"):
        dense_warp(np.zeros((1, 4, 4, 1)), np.zeros((1, 4, 4, 2)), interpolation="nearest")
