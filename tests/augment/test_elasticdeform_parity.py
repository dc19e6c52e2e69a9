"""elasticdeform (built from source) deforms as we do with the same coarse grid."""

from __future__ import annotations

import numpy as np
import pytest

from keras_unet.augment import dense_warp, grid_displacement

elasticdeform = pytest.importorskip(
    "elasticdeform", reason="pip install --no-binary elasticdeform elasticdeform"
)


@pytest.mark.parametrize("points", [(3, 3), (4, 5)])
def test_same_grid_same_picture(points):
    rng = np.random.default_rng(0)
    size = (61, 75)
    image = rng.random((1, *size, 1), np.float32)
    grid = rng.normal(0, 4, (1, *points, 2)).clip(-12, 12)
    displacement = grid_displacement(grid, size)
    ours = dense_warp(image, displacement).numpy()[0, ..., 0]
    theirs = elasticdeform.deform_grid(
        image[0, ..., 0].astype(np.float64), np.moveaxis(grid[0], -1, 0), order=1, mode="mirror"
    )
    inner = (slice(16, -16), slice(16, -16))
    np.testing.assert_allclose(ours[inner], theirs[inner], atol=1e-4)
