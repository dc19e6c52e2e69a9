"""Cubic interpolation of a coarse grid by small matrices: values = rows @ grid @ columns.T.

Which cubic: the interpolating cubic spline that is mirrored at the first and last grid point, which
lie on the tile's first and last pixel. It passes through the drawn values exactly, has two
continuous derivatives, and its slope is zero at the tile's border, so that it continues smoothly
into the mirrored image. It is `scipy.ndimage`'s order 3 with mode "mirror" and elasticdeform's
interpolation of its control points.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import tensorflow as tf

Tensor = Any


@functools.lru_cache(maxsize=32)
def spline_pieces(points: int) -> np.ndarray:
    """The cardinal splines' polynomials: float64 [points - 1, 4, points].

    Entry [k, d, b] is the coefficient of t^d, t in [0, 1] between grid points k and k + 1, of the
    spline that is 1 at point b and 0 at all others.
    """
    from scipy.interpolate import CubicSpline

    # Mirroring about the end points makes the first derivative there zero: "clamped".
    spline = CubicSpline(np.arange(points), np.eye(points), axis=0, bc_type="clamped")
    return np.ascontiguousarray(spline.c[::-1].transpose(1, 0, 2))


def spline_rows(size: int | Tensor, points: int) -> Tensor:
    """The matrix from `points` grid values to `size` pixels: float64 [size, points].

    The grid spans the pixels: pixel 0 is the first grid point, pixel size - 1 the last.
    """
    pieces = tf.constant(spline_pieces(points))
    last = tf.cast(tf.maximum(size - 1, 1), tf.float64)
    place = tf.range(size, dtype=tf.float64) * (points - 1.0) / last
    piece = tf.minimum(tf.floor(place), points - 2.0)
    t = (place - piece)[:, None]
    c = tf.gather(pieces, tf.cast(piece, tf.int32))
    return c[:, 0] + t * (c[:, 1] + t * (c[:, 2] + t * c[:, 3]))
