"""ISBI 2012 challenge on electron microscopy: its metrics, as its Fiji scripts have them.

V_Rand and V_Info between two segmentations, and the thinning of borders that precedes them:
Arganda-Carreras et al. 2015, "Crowdsourcing the creation of image segmentation algorithms for
connectomics", Frontiers in Neuroanatomy 9:142, section "Evaluation metrics".

Warping error, what remains between truth and proposal when shapes may bend but not break: Jain et
al. 2010, "Boundary learning by optimization with topological constraints", CVPR: the truth is
warped towards the proposal through simple points (4-connected inside, 8-connected outside);
pixels that still differ are errors of topology.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import ndimage

from keras_unet.errors import ConfigError, DataError
from keras_unet.evaluation.confusion import overlap_table, ratio

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


_WAITING, _QUEUED, _OUTSIDE, _LINE = -2, -3, -1, 0
# the eight neighbours, in order around the pixel; bit k of a code stands for the k-th of them
_RING = ((0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1), (1, 0), (1, 1))
_EIGHT = np.ones((3, 3), bool)


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
                *four,
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


class SegmentScores(NamedTuple):
    """Agreement of two segmentations of the truth's foreground.

    joint, truth, proposal: ordered pairs of pixels that both, the truth, or the proposal put into
    one segment; they add up over images. v_rand, v_info: in [0, 1], 1 is best.
    """

    joint: float
    truth: float
    proposal: float
    v_rand: float
    v_info: float


def label4(mask: np.ndarray) -> np.ndarray:
    """4-connected components of a bool [H, W], int32: 1, 2, …; 0 elsewhere."""
    return ndimage.label(mask)[0]


def segment_scores(truth: np.ndarray, proposal: np.ndarray) -> SegmentScores:
    """Foreground-restricted Rand and information scores.

    Only pixels with truth > 0 count. A pixel to which the proposal gives 0 is a segment of its
    own (scikit-image's `adapted_rand_error` takes all of them for one segment).

    V_Rand = 2 sum p_ij² / (sum s_i² + sum t_j²), V_Info = 2 I(S; T) / (H(S) + H(T)).
    V_Info is 0 where truth or proposal is one single segment, as the challenge's code has it.
    Without a pixel of truth both are NaN.

    Args:
        truth, proposal: integer labels [H, W], 0 = in no segment.

    Raises:
        DataError: shapes or labels do not fit.
    """
    table = overlap_table(truth, proposal)[1:]
    total = float(table.sum())
    if not total:
        return SegmentScores(0.0, 0.0, 0.0, float("nan"), float("nan"))
    rows = np.asarray(table.sum(axis=1), np.float64)
    columns = np.asarray(table.sum(axis=0), np.float64)
    alone, columns = columns[0], columns[1:]
    shared = table[:, 1:].data.astype(np.float64)

    joint = float(np.sum(shared**2) + alone)
    same_truth = float(np.sum(rows**2))
    same_proposal = float(np.sum(columns**2) + alone)

    # each lone pixel has probability 1 / total
    lone = alone / total * np.log(total)
    truth_entropy = _entropy(rows / total)
    proposal_entropy = _entropy(columns / total) + lone
    information = truth_entropy + proposal_entropy - (_entropy(shared / total) + lone)
    one_segment = truth_entropy == 0 or proposal_entropy == 0
    return SegmentScores(
        joint,
        same_truth,
        same_proposal,
        2 * joint / (same_truth + same_proposal),
        0.0 if one_segment else float(2 * information / (truth_entropy + proposal_entropy)),
    )


def thin(inside: np.ndarray) -> np.ndarray:
    """Grows the 4-connected components of `inside` until lines of single pixels part them.

    Flooding of the inverted mask in the order of Soille & Vincent 1990 ("Determining watersheds
    in digital pictures via flooding simulations", SPIE 1360): first in, first out, seeds column
    by column, neighbours left, up, right, down. Ties are broken by that order alone, so the
    labels are those of the challenge's Fiji code to the pixel.

    Args:
        inside: bool [H, W].

    Returns:
        integer labels [H, W], 0 = dividing line. A mask with nothing inside is one segment.
    """
    height, width = inside.shape
    basins = label4(inside)
    if not basins.any():
        return np.ones(inside.shape, basins.dtype)
    padded = np.full((width + 2, height + 2), _OUTSIDE, np.int32)  # transposed: columns are runs
    padded[1:-1, 1:-1] = np.where(inside, basins, _WAITING).T
    touching = ndimage.binary_dilation(padded > 0) & (padded == _WAITING)
    queue = np.flatnonzero(touching).tolist()
    labels = padded.ravel().tolist()
    for position in queue:
        labels[position] = _QUEUED
    stride = height + 2
    on_line = False  # the algorithm keeps this between pixels
    for position in queue:  # which grows as it is read
        own = _QUEUED
        for neighbour in (position - stride, position - 1, position + stride, position + 1):
            other = labels[neighbour]
            if other > 0:
                if own == _QUEUED or (own == _LINE and on_line):
                    own = other
                elif own > 0 and own != other:
                    own, on_line = _LINE, False
            elif other == _LINE:
                if own == _QUEUED:
                    own, on_line = _LINE, True
            elif other == _WAITING:
                labels[neighbour] = _QUEUED
                queue.append(neighbour)
        labels[position] = own
    return np.array(labels, np.int32).reshape(padded.shape)[1:-1, 1:-1].T


def _entropy(probabilities: np.ndarray) -> float:
    present = probabilities[probabilities > 0]
    return float(-np.sum(present * np.log(present)))


class WarpingErrors(NamedTuple):
    """Counts of one image; divide by its pixels.

    mismatches: pixels that still differ after the warp. splits: those that, taken from their
    object, break it in two. mergers: those that, filled, join two objects.
    """

    mismatches: int
    splits: int
    mergers: int


def warping_errors(truth: np.ndarray, probability: np.ndarray, threshold: float) -> WarpingErrors:
    """Mismatches after warping the truth towards `probability > threshold`.

    Args:
        truth: bool [H, W], inside of a cell. probability: float [H, W] of being inside.
    """
    warped = warp(truth, probability, threshold)
    wrong = warped != (probability > threshold)
    splits, mergers = splits_and_mergers(warped, wrong)
    return WarpingErrors(int(wrong.sum()), splits, mergers)


def warp(truth: np.ndarray, probability: np.ndarray, threshold: float) -> np.ndarray:
    """The truth after every flip towards the proposal that keeps its topology: bool [H, W].

    Pixels are visited by falling |probability − threshold| (ties column by column), again and
    again until a round flips none, as the challenge's code does. A pixel can only become simple
    when a neighbour flips, so only such pixels are looked at again: the result is the same.
    """
    now = np.pad(truth, 1)  # outside of the image is background
    wrong = np.pad(truth != (probability > threshold), 1)
    ys, xs = np.nonzero(wrong)
    gap = np.abs(probability[ys - 1, xs - 1] - threshold).astype(np.float32)
    stride = now.shape[1]
    order = (ys * stride + xs)[np.lexsort((ys, xs, -gap))]
    rank = np.full(now.size, -1, np.int64)
    rank[order] = np.arange(order.size)

    codes = _ring_codes(now).ravel()
    first = np.flatnonzero(_SIMPLE[codes[order]])
    # plain lists: several times faster to index one by one than arrays
    position, turn, code, simple = order.tolist(), rank.tolist(), codes.tolist(), _SIMPLE.tolist()
    around = [(dy * stride + dx, 1 << (k + 4) % 8) for k, (dy, dx) in enumerate(_RING)]
    flipped = []
    this_round = first.tolist()  # sorted, so a heap already
    listed = [False] * len(position)
    while this_round:
        for place in this_round:
            listed[place] = True
        next_round = set()
        while this_round:
            current = heapq.heappop(this_round)
            listed[current] = False
            pixel = position[current]
            if not simple[code[pixel]]:
                continue
            turn[pixel] = -1
            flipped.append(pixel)
            for step, bit in around:
                neighbour = pixel + step
                code[neighbour] = seen = code[neighbour] ^ bit
                place = turn[neighbour]
                if place >= 0 and simple[seen]:
                    if place < current:
                        next_round.add(place)
                    elif not listed[place]:
                        listed[place] = True
                        heapq.heappush(this_round, place)
        this_round = sorted(next_round)
    now.ravel()[flipped] ^= True
    return now[1:-1, 1:-1]


def splits_and_mergers(warped: np.ndarray, wrong: np.ndarray) -> tuple[int, int]:
    """Mismatched pixels whose flip would split one object, and those that would merge two.

    Args:
        warped: bool [H, W], the warped truth. wrong: bool [H, W], where the proposal differs.
    """
    ys, xs = np.nonzero(wrong)
    inside = warped[ys, xs]
    objects = ndimage.label(warped)[0]
    ring = _neighbours(objects, ys, xs, outside=-1)
    kinds = _distinct(ring)  # the background counts as one
    split, merge = inside & (kinds > 2), ~inside & (kinds > 2)

    # A pixel between one object and background: without it, the object falls apart exactly where
    # two stretches of background around the pixel belong to one and the same background outside
    # (4- and 8-connectivity are dual), so nothing has to be labelled anew pixel by pixel.
    unsure = np.flatnonzero(inside & (kinds == 2))
    background = ndimage.label(np.pad(~warped, 1, constant_values=True), _EIGHT)[0]
    outer = _neighbours(background, ys[unsure] + 1, xs[unsure] + 1, outside=0)
    powers = (1 << np.arange(8))[:, None]
    stretches = _STRETCHES[((outer == 0) * powers).sum(axis=0)]
    split[unsure] = stretches > _distinct(np.where(outer == 0, -1, outer))
    return int(split.sum()), int(merge.sum())


def _ring_codes(padded: np.ndarray) -> np.ndarray:
    """uint8 of `padded`'s shape: which neighbours are inside; 0 in the outermost pixels."""
    height, width = padded.shape
    codes = np.zeros(padded.shape, np.uint8)
    for k, (dy, dx) in enumerate(_RING):
        seen = padded[1 + dy : height - 1 + dy, 1 + dx : width - 1 + dx]
        codes[1:-1, 1:-1] |= seen.astype(np.uint8) << k
    return codes


def _neighbours(labels: np.ndarray, ys: np.ndarray, xs: np.ndarray, outside: int) -> np.ndarray:
    """[8, N]: labels around each pixel; `outside` beyond the image."""
    padded = np.pad(labels, 1, constant_values=outside)
    return np.stack([padded[ys + 1 + dy, xs + 1 + dx] for dy, dx in _RING])


def _distinct(columns: np.ndarray) -> np.ndarray:
    """How many different numbers >= 0 each column of [8, N] holds."""
    ordered = np.sort(columns, axis=0)
    fresh = np.diff(ordered, axis=0, prepend=-1) != 0
    return (fresh & (ordered >= 0)).sum(axis=0)


def _simple_points() -> np.ndarray:
    """bool [256]: may the pixel flip without change of topology? Yokoi's number for 4 is 1."""
    bits = (np.arange(256)[:, None] >> np.arange(8)) & 1
    number = sum(
        bits[:, k] - bits[:, k] * bits[:, k + 1] * bits[:, (k + 2) % 8] for k in (0, 2, 4, 6)
    )
    return number == 1


def _background_stretches() -> np.ndarray:
    """int [256]: 8-connected pieces of background among the eight neighbours."""
    counts = np.zeros(256, np.int64)
    for code in range(256):
        patch = np.zeros((3, 3), bool)
        for k, (dy, dx) in enumerate(_RING):
            patch[1 + dy, 1 + dx] = not code >> k & 1
        counts[code] = ndimage.label(patch, _EIGHT)[1]
    return counts


_SIMPLE, _STRETCHES = _simple_points(), _background_stretches()
