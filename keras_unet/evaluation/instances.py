"""Scores of instance segmentations: which predicted objects are the true ones, and how well.

All of them follow from the pixels that each pair of objects shares. Over several images counts
are pooled: an image with more objects weighs more (`map_dsb2018` alone is a mean over images, as
its competition defines it).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment

from keras_unet.errors import ConfigError
from keras_unet.evaluation.confusion import check_labels, overlap_table, pairs_of_images, ratio

# Data Science Bowl 2018: IoU 0.50, 0.55 … 0.95. In twentieths, so that an IoU is compared with
# them in integers and one of exactly 0.55 is never taken for more
_TWENTIETHS = np.arange(10, 20)
IOU_THRESHOLDS: tuple[float, ...] = tuple((_TWENTIETHS / 20).tolist())


class Overlaps(NamedTuple):
    """The pairs of objects of one image that share pixels.

    truth_labels [T], predicted_labels [P], int64: labels present, ascending, without 0.
    truth_sizes [T], predicted_sizes [P], int64: their pixels. truth_index, predicted_index [N]:
    for each pair its places in the arrays above. shared, union [N], int64: pixels.
    """

    truth_labels: np.ndarray
    predicted_labels: np.ndarray
    truth_sizes: np.ndarray
    predicted_sizes: np.ndarray
    truth_index: np.ndarray
    predicted_index: np.ndarray
    shared: np.ndarray
    union: np.ndarray


class Matches(NamedTuple):
    """Matched objects, one true to one predicted: labels [M] int64, and their IoU [M] float64."""

    truth: np.ndarray
    predicted: np.ndarray
    iou: np.ndarray


# what one image adds to the scores of a set; counts of several images add up
COUNTS = (
    "truth",  # true objects
    "predicted",
    "seg_sum",  # of the Jaccard indices of SEG
    "iou_sum",  # over matches at IoU > 0.5
    "map_sum",  # of the average precisions of images that hold any object
    "map_images",  # how many these are
    "merged",
    "split",
    *(f"true_positives_{threshold}" for threshold in IOU_THRESHOLDS),
)

# groups of areas: 1, 2 to 3, 4 to 7 … pixels, the last without an end; a histogram adds up over
# images, where a median does not
AREAS = 24
FOUND, FALSE, MISSED = range(3)  # rows: predicted objects matched at IoU 0.5, others; true ones


def rates(counts: np.ndarray) -> dict[str, Any]:
    """`object_scores` of sums of `object_counts`, [..., len(COUNTS)], as arrays [...]."""
    truth, predicted, seg_sum, iou_sum, map_sum, map_images, merged, split = np.moveaxis(
        np.asarray(counts, np.float64)[..., : -len(IOU_THRESHOLDS)], -1, 0
    )
    reached = np.moveaxis(np.asarray(counts, np.float64)[..., -len(IOU_THRESHOLDS) :], -1, 0)
    hits = reached[0]
    either = truth + predicted
    precision_at = [ratio(count, either - count) for count in reached]
    return {
        "seg": ratio(seg_sum, truth),
        "map_dsb2018": ratio(map_sum, map_images),
        "map_pooled": np.mean(precision_at, axis=0),
        "average_precision": dict(zip(map(str, IOU_THRESHOLDS), precision_at, strict=True)),
        "f1": ratio(2 * hits, either),
        "precision": ratio(hits, predicted),
        "recall": ratio(hits, truth),
        "pq": ratio(2 * iou_sum, either),
        "sq": ratio(iou_sum, hits),
        "rq": ratio(2 * hits, either),
        "true_positives": hits.astype(np.int64),
        "false_positives": (predicted - hits).astype(np.int64),
        "false_negatives": (truth - hits).astype(np.int64),
        "merged": merged.astype(np.int64),
        "split": split.astype(np.int64),
    }


def object_scores(
    truth: np.ndarray | Sequence[np.ndarray], predicted: np.ndarray | Sequence[np.ndarray]
) -> dict[str, Any]:
    """Instance scores of one image, or of several with counts pooled.

    - `seg`: Cell Tracking Challenge (Maška et al. 2014, Bioinformatics 30:1609): mean over true
      objects of the Jaccard index with the object that covers more than half of it, 0 without one.
    - `map_dsb2018`: Data Science Bowl 2018 (Caicedo et al. 2019, Nature Methods 16:1247): TP /
      (TP + FP + FN), mean over IoU 0.5, 0.55 … 0.95, mean over images. `map_pooled`: the same of
      the pooled counts; `average_precision`: at each IoU, pooled.
    - `f1`, `precision`, `recall`: of objects at IoU 0.5.
    - `pq` = `sq` · `rq`: panoptic quality (Kirillov et al. 2019, CVPR); `sq` is the mean IoU of
      matches, `rq` equals `f1`.
    - `true_positives`, `false_positives`, `false_negatives`: objects at IoU 0.5.
    - `merged`: predicted objects that hold more than half of each of two or more true ones;
      `split`: true objects that hold more than half of each of two or more predicted ones.

    A match needs an IoU above the threshold, not equal to it; above 0.5 an object has at most one.

    NaN where a score is not defined: `seg` and `recall` without true objects, `precision`
    without predicted ones, `sq` without matches, the others without either. In `map_dsb2018`
    images without any object are left out; one with only false objects counts as 0.

    Args:
        truth, predicted: integer labels [H, W] (or any rank), 0 = background, each object with a
            number of its own; or sequences of such images, which may differ in size.

    Raises:
        DataError: shapes, types or numbers of images do not fit.
    """
    pairs = pairs_of_images(truth, predicted)
    counts = sum((object_counts(*pair) for pair in pairs), np.zeros(len(COUNTS)))
    return {
        name: {k: float(v) for k, v in value.items()} if isinstance(value, dict) else float(value)
        for name, value in rates(counts).items()
    }


def object_counts(truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """What one image adds to the scores of a set: float64 [len(COUNTS)], see there."""
    return image_blocks(truth, predicted)["objects"]


def image_blocks(truth: np.ndarray, predicted: np.ndarray) -> dict[str, np.ndarray]:
    """What one image adds to a set: `objects` [len(COUNTS)] and `object_areas` [3, AREAS].

    The rows of `object_areas` are `FOUND`, `FALSE` and `MISSED`; column k is of areas of 2^k up to
    2^(k + 1) − 1 pixels.
    """
    found = overlaps(truth, predicted)
    return {"objects": _counts(found), "object_areas": _areas(found)}


def _areas(found: Overlaps) -> np.ndarray:
    hit = 2 * found.shared > found.union
    matched = np.isin(np.arange(found.predicted_sizes.size), found.predicted_index[hit])
    missed = np.isin(np.arange(found.truth_sizes.size), found.truth_index[hit], invert=True)
    rows = (
        found.predicted_sizes[matched],
        found.predicted_sizes[~matched],
        found.truth_sizes[missed],
    )
    groups = [np.minimum(np.frexp(sizes)[1] - 1, AREAS - 1) for sizes in rows]
    return np.stack([np.bincount(group, minlength=AREAS) for group in groups]).astype(np.float64)


def area_rates(areas: np.ndarray) -> dict[str, np.ndarray]:
    """Median areas in pixels of sums of `object_areas`, [..., 3, AREAS], as arrays [...]."""
    medians = median_area(areas)
    return {"false_area": medians[..., FALSE], "missed_area": medians[..., MISSED]}


def median_area(histogram: np.ndarray) -> np.ndarray:
    """The median of areas in groups, [..., AREAS] -> [...]: NaN of none.

    Within its group it is where it would be if logarithms of areas were evenly spread; 1 is exact.
    """
    histogram = np.asarray(histogram, np.float64)
    above = np.cumsum(histogram, axis=-1)
    half = above[..., -1:] / 2
    group = (above < half).sum(axis=-1, keepdims=True)  # the first that holds half of them
    inside = np.take_along_axis(histogram, group, axis=-1)
    below = np.take_along_axis(above, group, axis=-1) - inside
    within = (half - below) / np.maximum(inside, 1.0)
    lowest, highest = np.exp2(group), np.exp2(group + 1) - 1
    median = lowest * (highest / lowest) ** within
    return np.where(half > 0, median, np.nan)[..., 0]


def _counts(found: Overlaps) -> np.ndarray:
    true, guessed = found.truth_labels.size, found.predicted_labels.size
    jaccard = found.shared / found.union
    covering = 2 * found.shared > found.truth_sizes[found.truth_index]
    covered = 2 * found.shared > found.predicted_sizes[found.predicted_index]
    merged = np.bincount(found.predicted_index[covering], minlength=1) > 1
    split = np.bincount(found.truth_index[covered], minlength=1) > 1
    reached = 20 * found.shared[:, None] > found.union[:, None] * _TWENTIETHS
    hits = reached.sum(axis=0)
    precision_at = hits / np.maximum(true + guessed - hits, 1)
    return np.array(
        [
            true,
            guessed,
            jaccard[covering].sum(),
            jaccard[reached[:, 0]].sum(),
            precision_at.mean(),
            true + guessed > 0,
            merged.sum(),
            split.sum(),
            *hits,
        ],
        np.float64,
    )


def judged(
    truth: np.ndarray, predicted: np.ndarray, ignored: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The objects of a partly labelled image that the labels can tell right or wrong.

    Ignored pixels belong to no object, as if the image ended there: what is left of a true and of a
    predicted object is compared. A predicted object of which more than half lies in ignored pixels
    is left out, unless it matches a true one (IoU above 0.5) in the others: it may be right
    (the rule for void pixels of Kirillov et al. 2019, section 4.1). With it goes the true object of
    whose pixels it has more than half, if it has that of one alone: the labels show the edge of it.

    Args:
        truth, predicted: integer labels of one shape, 0 = background; predicted ones found in the
            whole image.
        ignored: bool of this shape.

    Returns:
        truth and predicted without ignored pixels and without the objects that are left out.
    """
    truth, shown = np.where(ignored, 0, truth), np.where(ignored, 0, predicted)
    found = overlaps(truth, shown)
    matched = found.predicted_labels[found.predicted_index[2 * found.shared > found.union]]
    names, sizes = np.unique(predicted[predicted != 0], return_counts=True)
    place = np.searchsorted(names, found.predicted_labels)
    visible = np.zeros(len(names), np.int64)
    visible[place] = found.predicted_sizes
    unsure = np.setdiff1d(names[2 * visible < sizes], matched)
    covering = 2 * found.shared > found.truth_sizes[found.truth_index]
    by, of = found.predicted_index[covering], found.truth_index[covering]
    alone = np.bincount(by, minlength=1)[by] == 1
    edges = found.truth_labels[of[alone & np.isin(found.predicted_labels[by], unsure)]]
    return (
        np.where(np.isin(truth, edges), 0, truth),
        np.where(np.isin(shown, unsure), 0, shown),
    )


def match_objects(truth: np.ndarray, predicted: np.ndarray, iou: float = 0.5) -> Matches:
    """Pairs each true object with at most one predicted one, at an IoU above `iou`.

    Above 0.5 the pairs are unique. Below, as many objects as possible are matched and, among such
    matchings, the one with the largest sum of IoU is taken.

    Args:
        truth, predicted: integer labels of one shape, 0 = background.
        iou: in [0, 1).

    Raises:
        DataError: shapes or labels do not fit. ConfigError: iou is out of range.
    """
    if not 0 <= iou < 1:
        raise ConfigError(f"iou must be in [0, 1), got {iou}")
    found = overlaps(truth, predicted)
    jaccard = found.shared / found.union
    candidates = np.flatnonzero(jaccard > iou)
    if iou < 0.5:
        gain = np.zeros((found.truth_labels.size, found.predicted_labels.size))
        rows, columns = found.truth_index[candidates], found.predicted_index[candidates]
        # one more match always weighs more than all IoUs together
        gain[rows, columns] = jaccard[candidates] + min(gain.shape, default=0) + 1.0
        chosen_rows, chosen_columns = linear_sum_assignment(gain, maximize=True)
        chosen = np.zeros(gain.shape, bool)
        chosen[chosen_rows, chosen_columns] = True
        candidates = candidates[chosen[rows, columns]]
    return Matches(
        found.truth_labels[found.truth_index[candidates]],
        found.predicted_labels[found.predicted_index[candidates]],
        jaccard[candidates],
    )


def overlaps(truth: np.ndarray, predicted: np.ndarray) -> Overlaps:
    """Sizes of all objects and of what each pair of them shares.

    Args:
        truth, predicted: integer labels of one shape, any rank, 0 = background.

    Raises:
        DataError: shapes differ, or labels are no integers or negative.
    """
    (truth_names, truth), (predicted_names, predicted) = map(_close, check_labels(truth, predicted))
    table = overlap_table(truth, predicted)
    truth_sizes = np.asarray(table.sum(axis=1))
    predicted_sizes = np.asarray(table.sum(axis=0))
    truth_labels = 1 + np.flatnonzero(truth_sizes[1:])
    predicted_labels = 1 + np.flatnonzero(predicted_sizes[1:])
    cells = table[1:, 1:].tocoo()
    rows, columns = cells.coords[0] + 1, cells.coords[1] + 1
    shared = cells.data
    return Overlaps(
        truth_labels if truth_names is None else truth_names[truth_labels],
        predicted_labels if predicted_names is None else predicted_names[predicted_labels],
        truth_sizes[truth_labels],
        predicted_sizes[predicted_labels],
        np.searchsorted(truth_labels, rows),
        np.searchsorted(predicted_labels, columns),
        shared,
        truth_sizes[rows] + predicted_sizes[columns] - shared,
    )


def _close(labels: np.ndarray) -> tuple[np.ndarray | None, np.ndarray]:
    """Labels far above the number of pixels as 1, 2, … with their names: tables stay small."""
    if not labels.size or int(labels.max()) <= max(labels.size, 1 << 16):
        return None, labels
    names, close = np.unique(labels, return_inverse=True)
    if names[0] != 0:
        names, close = np.concatenate([np.zeros(1, names.dtype), names]), close + 1
    return names, close.reshape(labels.shape)
