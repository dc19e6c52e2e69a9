from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from keras_unet.evaluation.counts import FEW, interval_notes, intervals


def means(values):
    return lambda drawn: values[drawn].mean(axis=-1)[None]


def test_equals_scipys_of_the_values_themselves():
    values = np.random.default_rng(0).gamma(2.0, size=17)
    found = intervals(means(values), 17, resamples=500, seed=3)
    rng = np.random.default_rng(3)
    expected = stats.bootstrap((values,), np.mean, n_resamples=500, random_state=rng)
    assert found[0] == pytest.approx(expected.confidence_interval)


def test_all_scores_see_the_same_draws():
    """So a difference of two scores has the interval of the differences."""
    rng = np.random.default_rng(1)
    a = rng.normal(size=12)
    b = a + 0.1 + rng.normal(0, 0.01, 12)

    def statistic(drawn):
        first, second = a[drawn].mean(-1), b[drawn].mean(-1)
        return np.stack([first, second, second - first])

    one, two, difference = intervals(statistic, 12, resamples=400)
    assert difference[0] > 0.08 and difference[1] < 0.12
    assert two[1] - one[0] > 10 * (difference[1] - difference[0])


def test_a_seed_gives_the_same_interval_and_another_a_near_one():
    values = np.random.default_rng(2).random(9)
    first = intervals(means(values), 9, seed=5)
    assert np.array_equal(first, intervals(means(values), 9, seed=5))
    other = intervals(means(values), 9, seed=6)
    assert not np.array_equal(first, other)
    np.testing.assert_allclose(first, other, atol=0.05)


def test_equal_scores_give_a_point_and_undefined_draws_are_left_out():
    same = intervals(means(np.full(6, 0.25)), 6, resamples=50)
    assert same.tolist() == [[0.25, 0.25]]
    weight = np.array([1.0, 0, 0, 0, 0])  # only one image holds the class

    def statistic(drawn):
        held = weight[drawn].sum(-1)
        return np.where(held > 0, 0.7, np.nan)[None]

    assert intervals(statistic, 5, resamples=200).tolist() == [[0.7, 0.7]]


def test_too_few_images_or_draws_give_none():
    one = intervals(means(np.ones(1)), 1)
    none = intervals(means(np.ones(4)), 4, resamples=0)
    assert np.isnan(one).all() and one.shape == (1, 2) and np.isnan(none).all()


def test_many_images_use_percentiles_in_bounded_memory():
    values = np.random.default_rng(4).random(3000)
    low, high = intervals(means(values), 3000, resamples=100)[0]
    assert values.mean() - 0.03 < low < values.mean() < high < values.mean() + 0.03
    assert "percentile" in interval_notes(3000, 0.95, 100)[0]


def test_most_intervals_hold_the_truth():
    rng = np.random.default_rng(7)
    held = 0
    for seed in range(60):
        values = rng.exponential(size=25)
        low, high = intervals(means(values), 25, resamples=300, seed=seed)[0]
        held += low <= 1.0 <= high
    assert 48 <= held <= 60  # 95 % of 60 are 57, with 25 images a little fewer


def test_few_images_are_told():
    assert len(interval_notes(FEW, 0.95, 100)) == 1
    assert "few" in interval_notes(FEW - 1, 0.95, 100)[1]
    assert "no intervals" in interval_notes(1, 0.95, 100)[0]
