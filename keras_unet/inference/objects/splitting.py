"""Touching objects cut apart, in windows that hold whole components.

Distances and watershed take some fifty bytes a pixel, so that a large image is done by parts. The
result does not depend on them: what is nearest to a pixel of a component, and not of it, is
background beside the component, and its flooding knows nothing of other components.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy import ndimage
from skimage.feature import peak_local_max
from skimage.segmentation import watershed

WINDOW = 2048  # pixels: components are gathered by squares of this side
_MARGIN = 8  # pixels around them: the smoothed distance reaches 4 far, and needs 4 more


def cut(labels: np.ndarray, seeds: np.ndarray | None, *, connectivity: int, apart: int) -> None:
    """Cuts components apart, in place, by watershed of the distance to the background.

    Args:
        labels: int32 [H, W], components numbered from 1. They get new numbers, above the old ones;
            a component without a seed keeps its own.
        seeds: int [H, W], 0 = none; equal numbers stay one object. None: the distance's peaks.
        connectivity: 4 or 8.
        apart: pixels, 1 or more: the least distance between two peaks.
    """
    count = int(labels.max(initial=0))
    last = count
    group = np.full(count + 2, -1)  # of each component; -1 for cut ones and background
    for number, (window, members) in enumerate(_windows(labels, count)):
        group[members] = number
        part = labels[window]
        own = np.where(group[np.minimum(part, count + 1)] == number, part, 0)
        distance = ndimage.distance_transform_edt(part > 0)
        if seeds is None:
            markers = _peaks(distance, own, apart)
            grown = _grow(markers, distance, own > 0, connectivity) + last
            new, last = grown > last, max(last, int(grown.max(initial=0)))
        else:
            markers = np.where(own > 0, seeds[window], 0)
            grown = _grow(markers, distance, own > 0, connectivity) + count
            new = grown > count
        part[new] = grown[new]


def _windows(labels: np.ndarray, count: int) -> Iterator[tuple[tuple[slice, slice], np.ndarray]]:
    """Parts of the image that hold some components whole, and these components' numbers."""
    if count == 0:
        return
    boxes = np.array(
        [[r.start, c.start, r.stop, c.stop] for r, c in ndimage.find_objects(labels, count)]
    )
    centres = (boxes[:, :2] + boxes[:, 2:]) // (2 * WINDOW)
    square = np.unique(centres, axis=0, return_inverse=True)[1]
    order = np.argsort(square, kind="stable")
    for members in np.split(order, np.flatnonzero(np.diff(square[order])) + 1):
        low = np.maximum(boxes[members, :2].min(axis=0) - _MARGIN, 0)
        high = boxes[members, 2:].max(axis=0) + _MARGIN
        yield (slice(low[0], high[0]), slice(low[1], high[1])), members + 1


def _peaks(distance: np.ndarray, components: np.ndarray, apart: int) -> np.ndarray:
    """Markers at the peaks of the distance, which is smoothed against jagged outlines."""
    smooth = ndimage.gaussian_filter(distance, 1.0)
    places = peak_local_max(smooth, min_distance=apart, labels=components, exclude_border=False)
    markers = np.zeros(components.shape, np.int32)
    markers[tuple(places.T)] = np.arange(1, len(places) + 1)
    return markers


def _grow(
    markers: np.ndarray, distance: np.ndarray, inside: np.ndarray, connectivity: int
) -> np.ndarray:
    """Watershed as Meyer (1991) has it: the neighbours of all markers wait from the beginning.

    Markers get levels of their own, in reading order. In scikit-image those of equal level come in
    an order that depends on everything else in the image.
    """
    level = -distance
    marked = markers > 0
    level[marked] = np.arange(np.count_nonzero(marked)) - 1e9
    return watershed(level, markers, connectivity=connectivity // 4, mask=inside)
