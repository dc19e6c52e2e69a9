"""The metrics of the ISBI 2012 challenge on electron microscopy, as its Fiji scripts have them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keras_unet.errors import ConfigError, DataError
from keras_unet.evaluation.confusion import ratio
from keras_unet.evaluation.segments import label4, segment_scores, thin
from keras_unet.evaluation.warping import warping_errors

# 0.0, 0.1 … summed up as the scripts do: the last is 0.9999999999999999, so that a probability
# of 1 is above every threshold
THRESHOLDS: tuple[float, ...] = tuple(np.add.accumulate([0.0] + 10 * [0.1]).tolist())

# what one slice adds to the scores of a set, at each threshold; counts of several slices add up
COUNTS = (
    *("v_rand", "v_info"),  # after thinning
    *("v_rand_unthinned", "v_info_unthinned"),
    "slices",  # in which these four are defined
    *("hits", "marked"),  # pixels inside in both; inside in truth + inside in the proposal
    *("joint", "pairs"),  # of the Rand F-score
    *("splits_and_mergers", "mismatches"),
    "pixels",
    "empty",  # nothing is above the threshold, though something is inside
)


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
      all pixels, the smallest. Thresholds at which nothing is left of a slice are not chosen:
      there is nothing to split in nothing, so they would always win (NaN if all are such).
      `per_threshold["mismatches"]` has every pixel that could not be warped: the error of Jain et
      al. itself.

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
    steps = _checked_thresholds(thresholds)
    counts = isbi_counts(truth, probability, steps, warping=warping)
    table = per_threshold(counts, warping)
    result: dict[str, Any] = {name: float(value) for name, value in rates(counts).items()}
    if not warping:
        result["warping_error"] = None
    best = {
        name: int(goodness.argmax())
        for name, goodness in _goodness(counts, table).items()
        if not np.isinf(goodness).all()
    }
    result["best_threshold"] = {name: steps[place] for name, place in best.items()}
    result["per_threshold"] = {
        "threshold": list(steps),
        **{name: column.tolist() for name, column in table.items()},
    }
    return result


def isbi_counts(
    truth: np.ndarray,
    probability: np.ndarray,
    thresholds: Sequence[float] | None = None,
    *,
    warping: bool = True,
) -> np.ndarray:
    """What a slice, or a stack, adds to the scores of a set: float64 [thresholds, len(COUNTS)].

    Arguments and errors as for `isbi2012`; without `warping`, its two columns are 0.
    """
    inside, values = _checked(truth, probability)
    steps = _checked_thresholds(thresholds)
    pairs = zip(inside, values, strict=True)
    return np.sum([_slice_counts(*pair, steps, warping) for pair in pairs], axis=0)


def rates(counts: np.ndarray) -> dict[str, np.ndarray]:
    """The five scores of `isbi2012` from sums of `isbi_counts`, [..., thresholds, len(COUNTS)]."""
    goodness = _goodness(counts, per_threshold(counts))
    best = {name: values.max(axis=-1) for name, values in goodness.items()}
    best = {name: np.where(np.isinf(value), np.nan, value) for name, value in best.items()}
    return {
        "v_rand": best["v_rand"],
        "v_info": best["v_info"],
        "pixel_error": 1.0 - best["pixel_error"],
        "rand_error": 1.0 - best["rand_error"],
        "warping_error": 0.0 - best["warping_error"],
    }


def _goodness(counts: np.ndarray, table: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What each score's threshold is chosen by: the largest; −inf where it cannot be chosen."""
    wanted = {
        "v_rand": table["v_rand"],
        "v_info": table["v_info"],
        "pixel_error": table["pixel_f_score"],
        "rand_error": table["rand_f_score"],
    }
    if "split_and_merge_pixels" in table:
        empty = counts[..., COUNTS.index("empty")] > 0
        wanted["warping_error"] = np.where(empty, np.nan, -table["split_and_merge_pixels"])
    return {name: np.where(np.isnan(value), -np.inf, value) for name, value in wanted.items()}


def _slice_counts(
    inside: np.ndarray, values: np.ndarray, thresholds: Sequence[float], warping: bool
) -> np.ndarray:
    labels = label4(inside)
    rows: list[tuple[Any, ...]] = []
    seen: np.ndarray | None = None
    for threshold in thresholds:
        mask = values > threshold
        if seen is None or not np.array_equal(mask, seen):  # thinning takes long
            seen = mask
            plain = segment_scores(labels, label4(mask))
            thinned = segment_scores(labels, thin(mask))
        # without a pixel inside they are undefined, and the slice is left out of the averages
        scored = not np.isnan(plain.v_rand)
        four = (
            (thinned.v_rand, thinned.v_info, plain.v_rand, plain.v_info) if scored else (0.0,) * 4
        )
        errors = warping_errors(inside, values, threshold) if warping else None
        rows.append(
            (
                *(four if scored else (0.0,) * 4),
                scored,
                np.count_nonzero(inside & mask),
                np.count_nonzero(inside) + np.count_nonzero(mask),
                plain.joint,
                plain.truth + plain.proposal,
                errors.splits + errors.mergers if errors else 0,
                errors.mismatches if errors else 0,
                inside.size,
                inside.any() and not mask.any(),
            )
        )
    return np.array(rows, np.float64)


def per_threshold(counts: np.ndarray, warping: bool = True) -> dict[str, np.ndarray]:
    """Columns [..., thresholds] of `isbi2012`'s table from sums of `isbi_counts`."""
    column = dict(zip(COUNTS, np.moveaxis(counts, -1, 0), strict=True))
    pixels, slices = column["pixels"], column["slices"]
    table = {
        **{name: ratio(column[name], slices) for name in COUNTS[:4]},
        "pixel_f_score": _f_score(column["hits"], column["marked"]),
        "wrong_pixels": ratio(column["marked"] - 2 * column["hits"], pixels),
        "rand_f_score": _f_score(column["joint"], column["pairs"]),
    }
    if warping:
        table["split_and_merge_pixels"] = ratio(column["splits_and_mergers"], pixels)
        table["mismatches"] = ratio(column["mismatches"], pixels)
    return table


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


def _f_score(hits: np.ndarray, marked: np.ndarray) -> np.ndarray:
    """2 TP / (2 TP + FP + FN); 1 where there is nothing to find and nothing found."""
    return np.where(marked > 0, ratio(2.0 * hits, marked), 1.0)
