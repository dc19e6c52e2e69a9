"""How overlapping tiles share a pixel: weights along each axis that sum to 1."""

from __future__ import annotations

from typing import Literal

import numpy as np

from keras_unet.inference.tiles import Axis

SIGMA = 1 / 8  # of the tile's length, as in nnU-Net and MONAI


def axis_weights(axis: Axis, blend: Literal["gaussian", "flat"]) -> np.ndarray:
    """float32 [repeats, used]; over the tiles that cover a pixel they sum to 1.

    A tile's weight is the product of its rows' and its columns' weights. "gaussian" trusts the
    middle of a tile, whose context is complete, more than its edge, which saw zeros.
    """
    place = np.arange(axis.used) - (axis.used - 1) / 2
    profile = np.ones(axis.used)
    if blend == "gaussian":
        profile = np.exp(-0.5 * (place / (SIGMA * axis.used)) ** 2)
    total = np.zeros((axis.repeats - 1) * axis.step + axis.used)
    starts = [index * axis.step for index in range(axis.repeats)]
    for start in starts:
        total[start : start + axis.used] += profile
    shares = [profile / total[start : start + axis.used] for start in starts]
    return np.asarray(shares, np.float32)
