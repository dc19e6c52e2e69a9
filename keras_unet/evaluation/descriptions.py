"""Descriptions of the scores for people: titles, which way is better, and what each one says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

ScorePath = tuple[str, ...]


class Description(NamedTuple):
    """A score in words. better: "higher", "lower", or "" for a plain count or a matter of taste."""

    title: str
    better: Literal["higher", "lower", ""]
    meaning: str
    digits: int = 4
    highest: float | None = 1.0  # possible; None: there is no end. The lowest is 0 for all


HIGHER: Literal["higher"] = "higher"
LOWER: Literal["lower"] = "lower"

# by path; "*" stands for the name of a class
_DESCRIPTIONS: dict[ScorePath, Description] = {
    ("mean_iou",): Description(
        "mean IoU", HIGHER, "mean of the classes' IoUs; classes in neither are left out"
    ),
    ("mean_dice",): Description("mean Dice", HIGHER, "mean of the classes' Dice scores"),
    ("pixel_error",): Description("pixel error", LOWER, "share of wrong pixels"),
    ("pixel_accuracy",): Description("pixel accuracy", HIGHER, "share of right pixels"),
    ("iou", "*"): Description("IoU", HIGHER, "pixels in both / pixels in either"),
    ("dice", "*"): Description("Dice", HIGHER, "2 · pixels in both / sum of both areas"),
    ("precision", "*"): Description("precision", HIGHER, "predicted pixels that are right"),
    ("recall", "*"): Description("recall", HIGHER, "true pixels that were found"),
    ("boundary_f1", "*"): Description(
        "boundary F1", HIGHER, "outline pixels within the tolerance of the other outline"
    ),
    ("hausdorff95", "*"): Description(
        "HD95, px",
        LOWER,
        "95 % of outline pixels are at most so far off; mean over images",
        2,
        None,
    ),
    ("hausdorff95_undefined", "*"): Description(
        "HD95 undefined",
        "",
        "images where only truth or only the prediction has the class",
        0,
        None,
    ),
    ("average_precision", "*"): Description(
        "AP", HIGHER, "area under the precision-recall curve of pixels"
    ),
    ("wrong_near_outline",): Description(
        "wrong near outlines", "", "share of the wrong pixels that lie within the tolerance of one"
    ),
    ("calibration_error",): Description(
        "calibration error", LOWER, "mean gap of confidence and accuracy (ECE, 15 groups)"
    ),
    ("brier",): Description(
        "Brier score", LOWER, "squared error of the probabilities, 0 to 2", highest=2.0
    ),
    ("objects", "f1"): Description("object F1", HIGHER, "at IoU 0.5"),
    ("objects", "precision"): Description(
        "object precision", HIGHER, "predicted objects that match a true one at IoU 0.5"
    ),
    ("objects", "recall"): Description("object recall", HIGHER, "true objects found at IoU 0.5"),
    ("objects", "seg"): Description(
        "SEG", HIGHER, "Cell Tracking Challenge: mean Jaccard index of the true objects"
    ),
    ("objects", "pq"): Description("panoptic quality", HIGHER, "PQ = SQ · RQ"),
    ("objects", "sq"): Description("SQ", HIGHER, "mean IoU of the matched objects"),
    ("objects", "rq"): Description("RQ", HIGHER, "the same as object F1"),
    ("objects", "map_dsb2018"): Description(
        "mAP, DSB 2018", HIGHER, "TP / (TP + FP + FN), mean over IoU 0.5 … 0.95 and over images"
    ),
    ("objects", "map_pooled"): Description(
        "mAP, pooled", HIGHER, "the same of the counts of all images"
    ),
    ("objects", "average_precision", "*"): Description(
        "AP at IoU", HIGHER, "TP / (TP + FP + FN) at this IoU, pooled"
    ),
    ("objects", "true_positives"): Description("found", "", "objects matched at IoU 0.5", 0, None),
    ("objects", "false_positives"): Description(
        "false", "", "predicted objects without match", 0, None
    ),
    ("objects", "false_negatives"): Description(
        "missed", "", "true objects without match", 0, None
    ),
    ("objects", "merged"): Description(
        "merged", "", "predicted objects that hold most of two or more true ones", 0, None
    ),
    ("objects", "split"): Description(
        "split", "", "true objects that hold most of two or more predicted ones", 0, None
    ),
    ("isbi", "v_rand"): Description("V_Rand", HIGHER, "after thinning, best threshold"),
    ("isbi", "v_info"): Description("V_Info", HIGHER, "after thinning, best threshold"),
    ("isbi", "pixel_error"): Description("pixel error, 2012", LOWER, "1 − largest F-score"),
    ("isbi", "rand_error"): Description("Rand error, 2012", LOWER, "1 − largest F-score of pairs"),
    ("isbi", "warping_error"): Description(
        "warping error, 2012", LOWER, "pixels that split or merge objects, of all pixels", 6
    ),
}


def describe(path: ScorePath) -> Description:
    """The description of a score by its path in `Evaluation.total`."""
    for pattern in (path, (*path[:-1], "*")):
        if pattern in _DESCRIPTIONS:
            return _DESCRIPTIONS[pattern]
    return Description(" ".join(path), "", "", highest=None)


def title(path: ScorePath) -> str:
    """The title with the class behind it: "IoU, cell"."""
    named = describe(path).title
    return named if path in _DESCRIPTIONS else f"{named}, {path[-1]}"


def has_interval(path: ScorePath) -> bool:
    """Plain counts have none."""
    return describe(path).digits > 0


def show(path: ScorePath, value: float | None) -> str:
    """The value as people read it."""
    return "undefined" if value is None else f"{value:.{describe(path).digits}f}"


def show_range(path: ScorePath, limits: Sequence[float | None] | None) -> str:
    """An interval as people read it, "0.812 – 0.931", or nothing."""
    if not limits or limits[0] is None or limits[1] is None:
        return ""
    digits = max(describe(path).digits - 1, 2)
    return f"{limits[0]:.{digits}f} – {limits[1]:.{digits}f}"
