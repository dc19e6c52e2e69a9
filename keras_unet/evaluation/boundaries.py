"""Boundary scores: how far outlines are from the true ones, class by class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from keras_unet.errors import ConfigError, DataError
from keras_unet.evaluation.confusion import (
    integers_of_one_shape,
    pairs_of_images,
    ratio,
    require_within,
)

IGNORED = -1
# what one image adds to the scores of a set, class by class; counts of several images add up
COUNTS = (
    "near_true",  # true outline pixels within the tolerance of a predicted one
    "near_predicted",
    "true",  # true outline pixels
    "predicted",
    "distance_sum",  # of the 95th percentiles, px
    "distance_images",  # where it is defined
    "undefined_images",  # where only one of truth and prediction has an outline
)


class _Distances(NamedTuple):
    """Pixels from each outline pixel of one side to the nearest of the other side."""

    truth: np.ndarray
    predicted: np.ndarray


def boundary_scores(
    truth: np.ndarray | Sequence[np.ndarray],
    predicted: np.ndarray | Sequence[np.ndarray],
    num_classes: int,
    *,
    tolerance: float = 2.0,
    image_edge: bool = True,
) -> dict[str, list[float] | list[int]]:
    """Boundary F1 and the 95th percentile of the Hausdorff distance of every class.

    The outline of a class is its pixels with another class among their four neighbours.

    - `boundary_f1` (Csurka et al. 2013, BMVC): harmonic mean of the shares of predicted outline
      pixels within `tolerance` of a true one, and of true ones within it of a predicted one.
      Outline pixels of several images are pooled.
    - `hausdorff95`, in pixels: the larger of the two directed distances' 95th percentiles
      (linear between ranks, as NumPy and MONAI have it), mean over images where it is defined.
    - `hausdorff95_undefined`: images where the class is in truth or prediction, but not in both.

    A class in neither, in any image: NaN for both. A class in one of them only: boundary F1 0 and
    no distance (NaN if that is so for all images), counted in `hausdorff95_undefined`.

    Args:
        truth, predicted: integer classes [H, W], or sequences of such images; truth -1 = ignored:
            there the prediction does not count, and no outline is drawn along it.
        num_classes: K; classes are 0 … K − 1.
        tolerance: pixels, 0 or more, Euclidean.
        image_edge: whether a class that reaches the image's edge has an outline there (MONAI's
            convention). Such pixels often agree by themselves and flatter the scores.

    Returns:
        Lists of K numbers.

    Raises:
        DataError: shapes, types or labels do not fit.
        ConfigError: num_classes or tolerance is out of range.
    """
    if num_classes < 1 or not tolerance >= 0:
        raise ConfigError(
            "num_classes must be 1 or more and tolerance 0 or more, got "
            f"{num_classes} and {tolerance}"
        )
    counts = sum(
        (
            boundary_counts(*pair, num_classes, tolerance=tolerance, image_edge=image_edge)
            for pair in pairs_of_images(truth, predicted)
        ),
        np.zeros((num_classes, len(COUNTS))),
    )
    return {name: values.tolist() for name, values in rates(counts).items()}


def boundary_counts(
    truth: np.ndarray,
    predicted: np.ndarray,
    num_classes: int,
    *,
    tolerance: float,
    image_edge: bool,
) -> np.ndarray:
    """What one image adds to the scores of a set: float64 [K, len(COUNTS)], see there."""
    truth, predicted = _checked(truth, predicted, num_classes)
    rows = []
    for number in range(num_classes):
        found = _distances(truth, predicted, number, image_edge)
        near = [np.count_nonzero(each <= tolerance) for each in found]
        both = found.truth.size and found.predicted.size
        farthest = max(float(np.percentile(each, 95)) for each in found) if both else 0.0
        one = bool(found.truth.size) != bool(found.predicted.size)
        rows.append((*near, *(each.size for each in found), farthest, bool(both), one))
    return np.array(rows, np.float64)


def rates(counts: np.ndarray) -> dict[str, np.ndarray]:
    """`boundary_scores` of sums of `boundary_counts`, [..., K, len(COUNTS)], as [..., K]."""
    near, total = counts[..., 0:2], counts[..., 2:4]
    recall, precision = np.moveaxis(ratio(near, total), -1, 0)
    f1 = ratio(2 * precision * recall, precision + recall)
    f1 = np.where(near.all(axis=-1), f1, 0.0)
    return {
        "boundary_f1": np.where(total.any(axis=-1), f1, np.nan),
        "hausdorff95": ratio(counts[..., 4], counts[..., 5]),
        "hausdorff95_undefined": counts[..., 6].astype(np.int64),
    }


def outline(classes: np.ndarray, number: int, *, image_edge: bool = True) -> np.ndarray:
    """bool [H, W]: pixels of class `number` with another class (not -1) as a 4-neighbour."""
    others = np.pad((classes != number) & (classes != IGNORED), 1, constant_values=image_edge)
    return (classes == number) & ndimage.binary_dilation(others)[1:-1, 1:-1]


def _distances(
    truth: np.ndarray, predicted: np.ndarray, number: int, image_edge: bool
) -> _Distances:
    edges = [outline(each, number, image_edge=image_edge) for each in (truth, predicted)]
    if not (edges[0].any() and edges[1].any()):
        return _Distances(*(np.full(np.count_nonzero(each), np.inf) for each in edges))
    to_truth, to_predicted = (ndimage.distance_transform_edt(~each) for each in edges)
    return _Distances(to_predicted[edges[0]], to_truth[edges[1]])


def _checked(
    truth: np.ndarray, predicted: np.ndarray, num_classes: int
) -> tuple[np.ndarray, np.ndarray]:
    truth, predicted = integers_of_one_shape(truth, predicted)
    if truth.ndim != 2:
        raise DataError(f"truth and prediction must be images [H, W], got {truth.shape}")
    require_within(IGNORED, num_classes - 1, truth=truth)
    require_within(0, num_classes - 1, prediction=predicted)
    truth = truth.astype(np.int64)
    return truth, np.where(truth == IGNORED, IGNORED, predicted.astype(np.int64))
