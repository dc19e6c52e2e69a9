"""Statistics of thousands of draws."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from keras_unet.augment import make_settings, preset_settings, sample_seeds
from keras_unet.augment.draws import draw

COUNT = 2000
SEEDS = sample_seeds(11, 0, np.arange(COUNT))


def geometry(**options):
    return draw(make_settings(options), SEEDS, 1)[0]


def intensity(channels=1, **options):
    return draw(make_settings(options), SEEDS, channels)[1]


def test_displacements_at_the_grid_points():
    grid = geometry(elastic_sigma=10, elastic_grid=(3, 3)).grid.numpy()
    assert grid.shape == (COUNT, 2, 3, 3)
    # The standard error of a standard deviation is sigma / sqrt(2 n).
    assert np.abs(grid.std(axis=0) - 10).max() < 4 * 10 / math.sqrt(2 * COUNT)
    assert stats.kstest(grid.ravel() / 10, "norm").pvalue > 1e-3
    flat = grid.reshape(COUNT, -1)
    apart = np.corrcoef(flat.T) - np.eye(18)
    assert np.abs(apart).max() < 4.5 / math.sqrt(COUNT)  # dy, dx and all points independent
    assert geometry(elastic_sigma=5, elastic_grid=(4, 6)).grid.shape == (COUNT, 2, 4, 6)


def test_an_elastic_coin_switches_the_whole_field():
    grid = geometry(elastic_sigma=10, elastic_p=0.3).grid.numpy()
    off = (grid == 0).reshape(COUNT, -1)
    assert (off.all(axis=1) == off.any(axis=1)).all()
    assert abs(off[:, 0].mean() - 0.7) < 0.05


def test_flips_are_two_independent_fair_coins():
    matrix = geometry(flip_vertical=0.5, flip_horizontal=0.5).matrix.numpy()
    flips = matrix[:, [0, 1], [0, 1]] < 0
    for share in (flips[:, 0].mean(), flips[:, 1].mean()):
        assert abs(share - 0.5) < 0.05
    table = np.bincount(2 * flips[:, 0] + flips[:, 1], minlength=4).reshape(2, 2)
    assert stats.chi2_contingency(table).pvalue > 1e-3
    uneven = geometry(flip_vertical=0.1, flip_horizontal=0.0).matrix.numpy()
    assert abs((uneven[:, 0, 0] < 0).mean() - 0.1) < 0.03 and (uneven[:, 1, 1] == 1).all()


def test_angles_scales_and_shears_have_their_ranges():
    matrix = geometry(rotate=(-30, 60)).matrix.numpy()
    angle = np.degrees(np.arctan2(matrix[:, 0, 1], matrix[:, 0, 0]))
    assert stats.kstest(angle, "uniform", args=(-30, 90)).pvalue > 1e-3
    np.testing.assert_allclose(np.linalg.det(matrix), 1, atol=1e-5)
    zoom = 1 / geometry(scale=(0.7, 1.4)).matrix.numpy()[:, 0, 0]
    assert zoom.min() >= 0.699 and zoom.max() <= 1.401
    assert abs((zoom < 1).mean() - 0.5) < 0.05  # half of them smaller, whatever the range
    slant = geometry(shear=(-10, 10)).matrix.numpy()[:, 0, 1]
    assert stats.kstest(np.degrees(np.arctan(slant)), "uniform", args=(-10, 20)).pvalue > 1e-3
    right = geometry(rotate="right_angles").matrix.numpy()
    quarter = right[:, 0, 0] + 2 * right[:, 0, 1]
    assert stats.chisquare(np.unique(quarter, return_counts=True)[1]).pvalue > 1e-3
    assert set(quarter) == {1.0, 2.0, -1.0, -2.0}


def test_probabilities_and_channels():
    drawn = intensity(3, gamma=(0.7, 1.5), gamma_p=0.3, gamma_inverted_p=0.1, per_channel=True)
    assert drawn.gamma.shape == (COUNT, 3)
    on = drawn.gamma.numpy() != 1
    assert (on.all(axis=1) == on.any(axis=1)).all() and abs(on[:, 0].mean() - 0.3) < 0.05
    assert abs((drawn.gamma_inverted.numpy()[:, 0] != 1).mean() - 0.1) < 0.04
    assert len(np.unique(drawn.gamma.numpy()[on.all(axis=1)][0])) == 3
    joint = intensity(3, brightness=(-1, 1))
    assert joint.brightness.shape == (COUNT, 1)
    assert stats.kstest(joint.brightness.numpy()[:, 0], "uniform", args=(-1, 2)).pvalue > 1e-3


def test_switching_one_option_on_leaves_the_other_draws():
    few = geometry(elastic_sigma=10)
    many = draw(preset_settings("paper", noise=(0.1, 0.2), shift=3.0), SEEDS, 1)[0]
    np.testing.assert_array_equal(few.grid.numpy(), many.grid.numpy())
    np.testing.assert_array_equal(few.position.numpy(), many.position.numpy())


def test_quantities_are_independent_of_each_other():
    options = {
        "multiply": (0.5, 0.9),
        "brightness": (-1, 1),
        "contrast": (0.5, 0.9),
        "blur": (1, 2),
    }
    drawn = intensity(noise=(0.0, 1.0), low_resolution=(0.5, 0.9), gamma=(0.5, 0.9), **options)
    table = np.stack([value.numpy()[:, 0] for value in drawn if value is not None])
    assert len(table) == 7
    apart = np.corrcoef(table) - np.eye(7)
    assert np.abs(apart).max() < 4.5 / math.sqrt(COUNT)


@pytest.mark.parametrize("name", ["shift"])
def test_shift_is_uniform_on_both_axes(name):
    shift = geometry(shift=5.0).shift.numpy()
    for axis in (0, 1):
        assert stats.kstest(shift[:, axis], "uniform", args=(-5, 10)).pvalue > 1e-3
