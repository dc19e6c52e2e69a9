"""Tiles centred on pixels of rare classes: how often, where, and reproducibly."""

from __future__ import annotations

import numpy as np
import pytest

from keras_unet.augment import Augment, sample_seeds
from keras_unet.data.normalization import Normalization
from keras_unet.data.pipeline import (
    Target,
    fill_bank,
    foreground_pixels,
    tile_dataset,
    tile_requests,
)
from keras_unet.data.samples import Sample
from keras_unet.errors import ConfigError


def label_maps():
    """Class 1 is much of two images, class 2 is one pixel of the third; the fourth is empty."""
    maps = [np.zeros((40, 50), np.uint8) for _ in range(4)]
    maps[0][5:20, 5:30] = 1
    maps[1][10:12, 40:44] = 1
    maps[2][33, 3] = 2
    return maps


def choose(share, count=4000):
    table = foreground_pixels(label_maps(), share)
    index, centre = table.choose(
        np.full(count, 3, np.int32), sample_seeds(1, 0, np.arange(count, dtype=np.int32))
    )
    return index.numpy(), centre.numpy()


def test_classes_and_images_come_evenly_and_pixels_belong_to_them():
    maps = label_maps()
    index, centre = choose(1.0)
    classes = np.array([maps[i][y, x] for i, (y, x) in zip(index, centre, strict=True)])
    assert set(classes) == {1, 2}
    assert abs(np.mean(classes == 2) - 0.5) < 0.03
    assert abs(np.mean(index[classes == 1] == 0) - 0.5) < 0.04  # not 375 to 8, as by pixels
    assert set(index[classes == 2]) == {2}
    assert len({tuple(c) for c in centre[index == 1]}) == 8


def test_the_share_is_kept_and_the_rest_left_alone():
    index, centre = choose(0.33)
    untouched = centre[:, 0] < 0
    assert abs(np.mean(~untouched) - 0.33) < 0.03
    assert (centre[untouched] == -1).all()
    assert (index[untouched] == 3).all()


def test_nothing_to_centre_on_is_an_error():
    with pytest.raises(ConfigError, match="oversample.*above 0"):
        foreground_pixels([np.zeros((4, 4), np.uint8)], 0.5)


def test_too_many_pixels_are_thinned_out(monkeypatch):
    monkeypatch.setattr("keras_unet.data.pipeline.MOST_FOREGROUND", 60)
    table = foreground_pixels(label_maps(), 0.5, seed=3)
    assert [tuple(pair) for pair in table.pairs] == [(0, 20), (20, 8), (28, 1)]
    assert len({tuple(p) for p in table.pixels[:20]}) == 20
    again = foreground_pixels(label_maps(), 0.5, seed=3)
    np.testing.assert_array_equal(table.pixels, again.pixels)


@pytest.mark.parametrize(("tile", "output"), [(21, 9), (24, 12)])
def test_the_tile_lies_around_its_pixel(tile, output):
    """Every tile of the data set has the rare pixel in the middle, whatever its size."""
    maps = label_maps()[2:]
    samples = [Sample(str(n), m[..., None], m.astype(np.int32)) for n, m in enumerate(maps)]
    made = [Target(m, np.ones(m.shape, np.float32)) for m in maps]
    bank = fill_bank(samples, made, Normalization(method="range", scale=255.0))
    table = foreground_pixels(maps, 1.0)
    augment = Augment.from_preset("none", tile=tile, output=output)
    data = tile_dataset(bank, augment, np.arange(2), batch_size=2, seed=0, foreground=table)
    middle = (output - 1) // 2
    for image, classes, _ in data.take(3):
        assert (classes.numpy()[:, middle, middle] == 2).all()
        inner = image.numpy()[:, (tile - output) // 2 + middle, (tile - output) // 2 + middle, 0]
        np.testing.assert_allclose(inner, 2 / 255, rtol=1e-6)


def test_requests_depend_on_their_place_alone():
    table = foreground_pixels(label_maps(), 0.5)
    one, three = (
        list(tile_requests(np.arange(4), batch_size=n, seed=5, foreground=table).take(12 // n))
        for n in (1, 3)
    )
    for part in range(3):
        np.testing.assert_array_equal(
            np.concatenate([r[part] for r in one]), np.concatenate([r[part] for r in three])
        )
    plain = list(tile_requests(np.arange(4), batch_size=3, seed=5).take(4))
    np.testing.assert_array_equal(
        np.concatenate([r[1] for r in plain]), np.concatenate([r[1] for r in three])
    )
