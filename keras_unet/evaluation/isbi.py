"""The metrics of the ISBI 2012 challenge on electron microscopy, as its Fiji scripts have them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_unet.errors import ConfigError, DataError
from keras_unet.evaluation.segments import SegmentScores, label4, segment_scores, thin
from keras_unet.evaluation.warping import warping_errors

# 0.0, 0.1 … summed up as the scripts do: the last is 0.9999999999999999, so that a probability
# of 1 is above every threshold
THRESHOLDS: tuple[float, ...] = tuple(np.add.accumulate([0.0] + 10 * [0.1]).tolist())


def isbi2012(
    truth: np.ndarray,
    probability: np.ndarray,
    thresholds: Sequence[float] | None = None,
    *,
    warping: bool = True,
) -> dict[str, Any]:
    """Scores of the ISBI 2012 challenge: the best over thresholds, each metric at its own.

    The new ranking (Arganda-Carreras et al. 2015, Frontiers in Neuroanatomy 9:142):

    - `v_rand`, `v_info`: foreground-restricted Rand and information score after thinning the
      proposal's borders; 1 is best. At each threshold averaged over slices, then the largest
      average (one threshold for the whole stack, not one a slice).

    The ranking of 2012, which the U-Net paper reports; 0 is best:

    - `pixel_error`: 1 − the largest F-score of inside pixels, counts pooled over slices. The share
      of wrong pixels, which papers also call pixel error, is in `per_threshold["wrong_pixels"]`.
    - `rand_error`: 1 − the largest foreground-restricted F-score of pairs without thinning, pairs
      pooled over slices.
    - `warping_error`: pixels that split or merge objects after warping (Jain et al. 2010), over
      all pixels, the smallest. `per_threshold["mismatches"]` has every pixel that could not be
      warped: the error of Jain et al. itself.

    Probabilities are held as float32 and compared by `>` with a float64 threshold, as in Fiji. A
    slice with no pixel inside has no v_rand and v_info and is left out of their averages; where no
    slice has any, they are NaN.

    Args:
        truth: [H, W] or [Z, H, W], bool or integer; 1, 255 or True inside of a cell, 0 = membrane.
        probability: float of the same shape, in [0, 1]: of being inside of a cell.
        thresholds: in [0, 1]; by default the challenge's eleven, 0.0 to 1.0.
        warping: False leaves out warping_error (then None), which takes most of the time.

    Returns:
        The five scores; `best_threshold`: a threshold for each; `per_threshold`: lists along
        `thresholds` of v_rand, v_info, v_rand_unthinned, v_info_unthinned, pixel_f_score,
        wrong_pixels, rand_f_score, split_and_merge_pixels, mismatches (the last two are shares of
        all pixels). Numbers are Python floats.

    Raises:
        DataError: shapes, types or values do not fit. ConfigError: a threshold is out of range.
    """
    inside, values = _checked(truth, probability)
    steps = _checked_thresholds(thresholds)
    slices = [_Slice(mask, image) for mask, image in zip(inside, values, strict=True)]
    table: dict[str, list[float]] = {}
    for threshold in steps:
        for name, value in _at(slices, threshold, warping).items():
            table.setdefault(name, []).append(value)

    best = {
        "v_rand": _largest(table["v_rand"]),
        "v_info": _largest(table["v_info"]),
        "pixel_error": _largest(table["pixel_f_score"]),
        "rand_error": _largest(table["rand_f_score"]),
    }
    result: dict[str, Any] = {
        "v_rand": table["v_rand"][best["v_rand"]],
        "v_info": table["v_info"][best["v_info"]],
        "pixel_error": 1.0 - table["pixel_f_score"][best["pixel_error"]],
        "rand_error": 1.0 - table["rand_f_score"][best["rand_error"]],
        "warping_error": None,
    }
    if warping:
        best["warping_error"] = int(np.argmin(table["split_and_merge_pixels"]))
        result["warping_error"] = table["split_and_merge_pixels"][best["warping_error"]]
    result["best_threshold"] = {name: steps[place] for name, place in best.items()}
    result["per_threshold"] = {"threshold": list(steps), **table}
    return result


class _Slice:
    """One slice with its labelled truth; thinning is kept while the mask stays the same."""

    def __init__(self, inside: np.ndarray, values: np.ndarray) -> None:
        self.inside, self.values = inside, values
        self.labels = label4(inside)
        self._mask: np.ndarray | None = None

    def scores(self, threshold: float) -> tuple[SegmentScores, SegmentScores]:
        """Without and with thinning."""
        mask = self.values > threshold
        if self._mask is None or not np.array_equal(mask, self._mask):
            self._mask = mask
            self._scores = (
                segment_scores(self.labels, label4(mask)),
                segment_scores(self.labels, thin(mask)),
            )
        return self._scores


def _at(slices: list[_Slice], threshold: float, warping: bool) -> dict[str, float]:
    plain, thinned = zip(*(each.scores(threshold) for each in slices), strict=True)
    masks = [each.values > threshold for each in slices]
    pixels = sum(each.inside.size for each in slices)
    hits = sum(int((each.inside & mask).sum()) for each, mask in zip(slices, masks, strict=True))
    marked = sum(
        int(each.inside.sum() + mask.sum()) for each, mask in zip(slices, masks, strict=True)
    )
    row = {
        "v_rand": _average([each.v_rand for each in thinned]),
        "v_info": _average([each.v_info for each in thinned]),
        "v_rand_unthinned": _average([each.v_rand for each in plain]),
        "v_info_unthinned": _average([each.v_info for each in plain]),
        "pixel_f_score": _f_score(hits, marked),
        "wrong_pixels": (marked - 2 * hits) / pixels,
        "rand_f_score": _f_score(
            sum(each.joint for each in plain), sum(each.truth + each.proposal for each in plain)
        ),
    }
    if warping:
        errors = [warping_errors(each.inside, each.values, threshold) for each in slices]
        row["split_and_merge_pixels"] = sum(e.splits + e.mergers for e in errors) / pixels
        row["mismatches"] = sum(e.mismatches for e in errors) / pixels
    return row


def _checked(truth: np.ndarray, probability: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    truth, probability = np.asarray(truth), np.asarray(probability)
    if truth.ndim not in (2, 3) or truth.shape != probability.shape or not truth.size:
        raise DataError(
            "truth and probability must have one shape [H, W] or [Z, H, W], got "
            f"{truth.shape} and {probability.shape}"
        )
    if truth.dtype.kind not in "biu":
        raise DataError(f"truth must be bool or integer, got {truth.dtype}")
    found = np.unique(truth)
    if not (set(found.tolist()) <= {0, 1} or set(found.tolist()) <= {0, 255}):
        raise DataError(f"truth must hold 0 and 1, or 0 and 255, got {found[:6].tolist()}")
    if probability.dtype.kind not in "bf":
        raise DataError(f"probability must be float in [0, 1], got {probability.dtype}")
    if not (probability.min() >= 0 and probability.max() <= 1):  # false for NaN too
        raise DataError(
            f"probability must be in [0, 1], got {probability.min()} … {probability.max()}"
        )
    stack = (-1, *truth.shape[-2:])
    values = probability.astype(np.float32).astype(np.float64)
    return (truth != 0).reshape(stack), values.reshape(stack)


def _checked_thresholds(thresholds: Sequence[float] | None) -> tuple[float, ...]:
    if thresholds is None:
        return THRESHOLDS
    steps = tuple(float(each) for each in thresholds)
    if not steps or not all(0 <= each <= 1 for each in steps):
        raise ConfigError(f"thresholds must be one or more numbers in [0, 1], got {steps}")
    return steps


def _f_score(hits: float, marked: float) -> float:
    """2 TP / (2 TP + FP + FN); 1 where there is nothing to find and nothing found."""
    return 2.0 * hits / marked if marked else 1.0


def _average(values: Sequence[float]) -> float:
    present = [value for value in values if not np.isnan(value)]
    return float(np.mean(present)) if present else float("nan")


def _largest(values: Sequence[float]) -> int:
    """Place of the first largest; NaN is below everything."""
    return int(np.argmax(np.nan_to_num(values, nan=-np.inf)))
