"""The elastic field equals float64 cubic interpolation of its grid."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from keras_unet.augment import grid_displacement
from keras_unet.errors import DataError


def cubic(grid: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """scipy's float64 cubic spline of [rows, columns] on a picture that the grid spans."""
    places = [np.linspace(0, n - 1, k) for n, k in zip(grid.shape, size, strict=True)]
    return ndimage.map_coordinates(
        grid, np.meshgrid(*places, indexing="ij"), order=3, mode="mirror", prefilter=True
    )


@settings(max_examples=8, deadline=None)
@given(
    rows=st.integers(2, 6),
    columns=st.integers(2, 25),
    size=st.tuples(st.integers(2, 60), st.integers(2, 60)),
)
def test_equals_float64_cubic_interpolation(rows, columns, size):
    grid = np.random.default_rng(rows * columns).normal(0, 10, (1, rows, columns, 2))
    field = grid_displacement(grid, size).numpy()[0]
    for axis in (0, 1):
        np.testing.assert_allclose(field[..., axis], cubic(grid[0, ..., axis], size), atol=2e-5)


def test_passes_through_the_drawn_values_and_is_flat_at_the_border():
    grid = np.random.default_rng(0).normal(0, 10, (1, 3, 3, 2))
    field = grid_displacement(grid, (101, 101)).numpy()[0]
    np.testing.assert_allclose(field[::50, ::50], grid[0], atol=1e-5)
    assert np.abs(field[1] - field[0]).max() < 0.05 < np.abs(field[26] - field[25]).max()


def test_a_grid_needs_two_points_each_way():
    with pytest.raises(DataError, match=r"rows >= 2.*\(1, 1, 3, 2\)"):
        grid_displacement(np.zeros((1, 1, 3, 2)), (8, 8))
