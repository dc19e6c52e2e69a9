"""V_Rand and V_Info between two segmentations, and the thinning of borders that precedes them.

Arganda-Carreras et al. 2015, "Crowdsourcing the creation of image segmentation algorithms for
connectomics", Frontiers in Neuroanatomy 9:142, section "Evaluation metrics".
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import ndimage

from keras_unet.evaluation.overlap import overlap_table

_WAITING, _QUEUED, _OUTSIDE, _LINE = -2, -3, -1, 0


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
