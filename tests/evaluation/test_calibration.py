"""Histograms of probabilities against pixels one by one."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_unet.evaluation import calibration as c


def made(seed: int, pixels: int = 60, classes: int = 3):
    rng = np.random.default_rng(seed)
    parts = rng.multinomial(c.BINS, np.ones(classes) / classes, pixels)
    return rng.integers(0, classes, pixels), parts / c.BINS  # whole thousandths: no rounding


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 60), st.integers(2, 4))
def test_precision_and_recall_count_what_reaches_the_threshold(seed, pixels, classes):
    truth, given_to = made(seed, pixels, classes)
    # a hair above: whole thousandths must not fall into the bin below
    histogram = c.class_histogram(truth, given_to + 1e-9)
    assert histogram.sum() == pixels * classes
    for k in range(classes):
        curve = c.precision_recall(histogram[k])
        for threshold in (0.0, 0.2, 0.333, 0.5, 0.9):
            above = given_to[:, k] >= threshold - 1e-12
            at = round(threshold * c.BINS)
            hits = np.sum(above & (truth == k))
            expected = hits / above.sum() if above.any() else math.nan
            assert curve["precision"][at] == pytest.approx(expected, nan_ok=True)
            expected = hits / np.sum(truth == k) if (truth == k).any() else math.nan
            assert curve["recall"][at] == pytest.approx(expected, nan_ok=True)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 40))
def test_average_precision_and_best_threshold_by_trying_all(seed, pixels):
    truth, given_to = made(seed, pixels, 2)
    histogram = c.class_histogram(truth, given_to + 1e-9)[1]
    positives = np.sum(truth == 1)
    if not positives:
        assert math.isnan(c.average_precision(histogram))
        assert math.isnan(c.best_threshold(histogram)[0])
        return
    area, recall, best = 0.0, 0.0, 0.0
    for threshold in np.unique(given_to[:, 1])[::-1]:
        above = given_to[:, 1] >= threshold
        hits = np.sum(above & (truth == 1))
        area += (hits / positives - recall) * hits / above.sum()
        recall = hits / positives
        best = max(best, 2 * hits / (above.sum() + positives))
    assert c.average_precision(histogram) == pytest.approx(area)
    threshold, dice = c.best_threshold(histogram)
    assert dice == pytest.approx(best)
    above = given_to[:, 1] >= threshold - 1e-12
    assert dice == pytest.approx(2 * np.sum(above & (truth == 1)) / (above.sum() + positives))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 60), st.integers(2, 4))
def test_calibration_error_and_brier_score_pixel_by_pixel(seed, pixels, classes):
    truth, given_to = made(seed, pixels, classes)
    groups: dict[int, list[tuple[float, bool]]] = {}
    squares = 0.0
    for true, row in zip(truth, given_to, strict=True):
        confidence = row.max()
        group = min(int(confidence * c.GROUPS), c.GROUPS - 1)
        groups.setdefault(group, []).append((confidence, row.argmax() == true))
        squares += sum((p - (k == true)) ** 2 for k, p in enumerate(row))
    gaps = [abs(np.mean([r for _, r in g]) - np.mean([p for p, _ in g])) for g in groups.values()]
    expected = np.average(gaps, weights=[len(g) for g in groups.values()])
    counts = c.confidence_counts(truth, given_to)
    assert c.expected_calibration_error(counts) == pytest.approx(expected)
    assert c.squared_error(truth, given_to) == pytest.approx(squares)
    halves = [c.confidence_counts(truth[k::2], given_to[k::2]) for k in (0, 1)]
    np.testing.assert_allclose(sum(halves), counts)


def test_certain_pixels_fall_into_the_last_bin_and_none_is_lost():
    truth = np.array([0, 1, 1])
    given_to = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    histogram = c.class_histogram(truth, given_to)
    assert histogram[1, -1].tolist() == [0, 1]
    assert histogram[1, 0].tolist() == [1, 1]
    assert c.expected_calibration_error(c.confidence_counts(truth, given_to)) == pytest.approx(
        1 / 3
    )
    assert math.isnan(c.expected_calibration_error(np.zeros((c.GROUPS, 3))))


def test_a_calibrated_network_lies_on_the_diagonal():
    rng = np.random.default_rng(0)
    chance = rng.random(200_000)
    truth = (rng.random(chance.size) < chance).astype(int)
    curve = c.reliability(c.class_histogram(truth, np.stack([1 - chance, chance], -1))[1])
    np.testing.assert_allclose(curve["frequency"], curve["probability"], atol=0.02)
    assert curve["pixels"].sum() == chance.size
    empty = c.reliability(np.zeros((c.BINS, 2), int))
    assert np.isnan(empty["frequency"]).all()
