"""Warping error: what remains between truth and proposal when shapes may bend but not break.

Jain et al. 2010, "Boundary learning by optimization with topological constraints", CVPR: the
truth is warped towards the proposal through simple points (4-connected inside, 8-connected
outside); pixels that still differ are errors of topology.
"""

from __future__ import annotations

import heapq
from typing import NamedTuple

import numpy as np
from scipy import ndimage

# the eight neighbours, in order around the pixel; bit k of a code stands for the k-th of them
_RING = ((0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1), (1, 0), (1, 1))
_EIGHT = np.ones((3, 3), bool)


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
