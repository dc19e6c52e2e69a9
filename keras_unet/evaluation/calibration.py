"""Calibration of probabilities, in histograms that add up over images; precision and recall.

Only histograms are kept, so memory does not grow with the number of pixels or images.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_unet.evaluation.confusion import ratio

BINS = 1000  # of the probability of a class; thresholds of the precision-recall curve
GROUPS = 15  # of the confidence in the expected calibration error (Guo et al. 2017)


def class_histogram(truth: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Pixels by the probability that each class was given: int64 [K, BINS, 2].

    Bin b holds probabilities from b / BINS up to (b + 1) / BINS, the last one 1.0 too. Along the
    last axis: pixels of another class, pixels of this class.

    Args:
        truth: integers [N], 0 … K − 1. probabilities: float [N, K] in [0, 1].
    """
    classes = probabilities.shape[-1]
    bins = np.minimum((probabilities * BINS).astype(np.int64), BINS - 1)
    cells = 2 * bins + (truth[:, None] == np.arange(classes))
    counted = [np.bincount(column, minlength=2 * BINS) for column in cells.T]
    return np.reshape(counted, (classes, BINS, 2))


def confidence_counts(truth: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Pixels, sum of confidence and pixels right, by confidence: float64 [GROUPS, 3].

    The confidence is the largest probability of a pixel; group g goes from g / GROUPS to
    (g + 1) / GROUPS. Arguments as for `class_histogram`.
    """
    confidence = probabilities.max(axis=-1).astype(np.float64)
    group = np.minimum((confidence * GROUPS).astype(np.int64), GROUPS - 1)
    right = probabilities.argmax(axis=-1) == truth
    return np.stack(
        [np.bincount(group, weights, GROUPS) for weights in (None, confidence, right)], axis=-1
    ).astype(np.float64)


def squared_error(truth: np.ndarray, probabilities: np.ndarray) -> float:
    """Sum over pixels of the Brier score (1950): of (p_k − [truth is k])², summed over classes."""
    right = np.take_along_axis(probabilities, truth[:, None], axis=-1)[:, 0].astype(np.float64)
    return float(np.sum(np.square(probabilities, dtype=np.float64)) + np.sum(1.0 - 2.0 * right))


def expected_calibration_error(counts: np.ndarray) -> np.ndarray:
    """Mean over pixels of |accuracy − confidence| of their group (Guo et al. 2017, ICML, eq. 3).

    Args:
        counts: sums of `confidence_counts`, [..., GROUPS, 3]. NaN without a pixel.
    """
    gaps = np.abs(counts[..., 2] - counts[..., 1]).sum(axis=-1)
    return ratio(gaps, counts[..., 0].sum(axis=-1))


def precision_recall(histogram: np.ndarray) -> dict[str, np.ndarray]:
    """Precision and recall of one class at every threshold b / BINS, rising.

    Args:
        histogram: [BINS, 2], one class of `class_histogram`.

    Returns:
        threshold, precision (NaN where nothing is above it), recall (NaN without a true pixel):
        float64 [BINS].
    """
    others, hits = np.cumsum(histogram[::-1], axis=0)[::-1].T
    return {
        "threshold": np.arange(BINS) / BINS,
        "precision": ratio(hits, hits + others),
        "recall": ratio(hits, hits[0]),
    }


def average_precision(histogram: np.ndarray) -> float:
    """Area under the precision-recall curve as a sum of steps: sum (R_n − R_{n−1}) P_n.

    As scikit-learn's `average_precision_score`, of probabilities rounded down to 1 / BINS. NaN
    for a class without a true pixel.
    """
    curve = precision_recall(histogram)
    if np.isnan(curve["recall"]).any():
        return float("nan")
    gained = curve["recall"] - np.append(curve["recall"][1:], 0.0)
    return float(np.sum(gained * np.nan_to_num(curve["precision"])))


def best_threshold(histogram: np.ndarray) -> tuple[float, float]:
    """The threshold of the largest Dice of this class, and that Dice; NaN without a true pixel."""
    hits = np.cumsum(histogram[::-1], axis=0)[::-1].astype(np.float64)
    if not hits[0, 1]:
        return float("nan"), float("nan")
    dice = 2 * hits[:, 1] / (hits.sum(axis=1) + hits[0, 1])
    place = int(dice.argmax())
    return place / BINS, float(dice[place])


def reliability(histogram: np.ndarray, groups: int = 20) -> dict[str, Any]:
    """How often a class is right where it was given a probability, in `groups` equal intervals.

    Args:
        histogram: [BINS, 2], one class; BINS must be a multiple of `groups`.

    Returns:
        probability (middle of the interval), frequency (NaN in an empty one), pixels: [groups].
    """
    counts = histogram.reshape(groups, -1, 2).sum(axis=1)
    return {
        "probability": (np.arange(groups) + 0.5) / groups,
        "frequency": ratio(counts[:, 1], counts.sum(axis=1)),
        "pixels": counts.sum(axis=1),
    }
