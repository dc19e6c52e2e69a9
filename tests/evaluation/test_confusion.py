"""The confusion matrix against counting pixel by pixel, and its scores against sets of pixels."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest

from keras_unet.errors import ConfigError, DataError
from keras_unet.evaluation.confusion import confusion_matrix, scores


def test_counts_every_pixel_once():
    rng = np.random.default_rng(0)
    truth, prediction = rng.integers(0, 4, (2, 13, 7))
    expected = np.zeros((4, 4), int)
    for t, p in zip(truth.ravel(), prediction.ravel(), strict=True):
        expected[t, p] += 1
    matrix = confusion_matrix(truth.astype(np.uint8), prediction, 4)
    assert matrix.dtype == np.int64
    np.testing.assert_array_equal(matrix, expected)
    halves = confusion_matrix(truth[:5], prediction[:5], 4)
    halves = halves + confusion_matrix(truth[5:], prediction[5:], 4)
    np.testing.assert_array_equal(matrix, halves)


@pytest.mark.parametrize("ignored", [-1, 2, 255])
def test_ignored_pixels_are_not_counted(ignored):
    truth = np.array([[0, 1, ignored, ignored]])
    matrix = confusion_matrix(truth, np.array([[0, 0, 1, 2]]), 3, ignore_class=ignored)
    assert matrix.sum() == 2
    assert matrix[0, 0] == matrix[1, 0] == 1


def test_scores_equal_set_arithmetic():
    rng = np.random.default_rng(1)
    truth, prediction = rng.integers(0, 3, (2, 200))
    got = scores(confusion_matrix(truth, prediction, 3))
    for k in range(3):
        a, b = set(np.flatnonzero(truth == k)), set(np.flatnonzero(prediction == k))
        assert got["iou"][k] == pytest.approx(len(a & b) / len(a | b))
        assert got["dice"][k] == pytest.approx(2 * len(a & b) / (len(a) + len(b)))
    assert got["pixel_accuracy"] == pytest.approx((truth == prediction).mean())
    assert got["pixel_error"] == pytest.approx((truth != prediction).mean())
    assert got["mean_iou"] == pytest.approx(np.mean(got["iou"]))
    assert got["mean_dice"] == pytest.approx(np.mean(got["dice"]))


def test_absent_classes_are_nan_and_left_out_of_the_means():
    got = scores(confusion_matrix(np.array([0, 0, 1]), np.array([0, 2, 1]), 4))
    assert got["iou"][:3] == [0.5, 1.0, 0.0]
    assert math.isnan(got["iou"][3])
    assert got["mean_iou"] == 0.5
    empty = scores(np.zeros((2, 2)))
    assert math.isnan(empty["mean_dice"])
    assert math.isnan(empty["pixel_error"])


def test_bad_input_says_what_was_found():
    good = np.zeros((2, 2), int)
    for truth, prediction, message in (
        (good, good[:1], r"\(2, 2\) and \(1, 2\)"),
        (good.astype(float), good, "truth must be integers, got float64"),
        (good, good + 2, "prediction has labels 2 … 2, expected 0 … 1"),
        (good - 1, good, "truth has labels -1"),
    ):
        with pytest.raises(DataError, match=message):
            confusion_matrix(truth, prediction, 2)
    with pytest.raises(ConfigError, match="num_classes"):
        confusion_matrix(good, good, 1)
    with pytest.raises(DataError, match="square"):
        scores(np.zeros((2, 3)))


def test_needs_no_tensorflow():
    code = (
        "import sys, keras_unet.evaluation.confusion;"
        "sys.exit(any(m in sys.modules for m in ('tensorflow', 'keras')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
