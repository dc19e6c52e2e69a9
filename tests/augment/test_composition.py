"""The whole geometry of a draw against scipy in float64: one field, one resampling."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from keras_unet.augment import Augment, sample_seeds
from keras_unet.augment.draws import draw

OPTIONS = {
    "flip_vertical": 0.5,
    "flip_horizontal": 0.5,
    "rotate": (-180.0, 180.0),
    "scale": (0.7, 1.4),
    "shear": (-10.0, 10.0),
    "shift": 4.0,
    "elastic_sigma": 3.0,
    "elastic_grid": (3, 4),
}


def test_every_part_of_the_geometry_is_where_scipy_puts_it():
    size, count = (48, 57), 6
    rng = np.random.default_rng(0)
    image = rng.random((count, *size, 1), np.float32)
    label = rng.integers(0, 2**16, (count, *size)).astype(np.uint16)
    seeds = sample_seeds(5, 0, np.arange(count))
    layer = Augment(OPTIONS)
    warped, new = (value.numpy() for value in layer(image, label, seeds=seeds))
    drawn = draw(layer.settings, seeds, 1)[0]
    matrix, shift, grid = (value.numpy() for value in (drawn.matrix, drawn.shift, drawn.grid))

    half = (np.array(size) - 1) / 2
    offset = np.mgrid[: size[0], : size[1]] - half[:, None, None]
    coarse = [np.linspace(0, n - 1, k) for n, k in zip(grid.shape[2:], size, strict=True)]
    coarse = np.meshgrid(*coarse, indexing="ij")
    for b in range(count):
        place = np.einsum("ij,jyx->iyx", matrix[b].astype(np.float64), offset)
        place += (half + shift[b])[:, None, None]
        place += [
            ndimage.map_coordinates(g.astype(np.float64), coarse, order=3, mode="mirror")
            for g in grid[b]
        ]
        expected = ndimage.map_coordinates(image[b, ..., 0], place, order=1, mode="mirror")
        np.testing.assert_allclose(warped[b, ..., 0], expected, atol=1e-4)
        clear = (np.abs(place % 1 - 0.5) > 1e-4).all(axis=0)
        nearest = ndimage.map_coordinates(label[b], place, order=0, mode="mirror")
        np.testing.assert_array_equal(new[b][clear], nearest[clear])
