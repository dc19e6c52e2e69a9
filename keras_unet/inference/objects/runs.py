"""Label images as runs: stretches of equal label within a row, a few dozen for each object."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

BAND_PIXELS = 1 << 22  # so many are looked at in one go, which bounds the temporary arrays


class Runs(NamedTuple):
    """Runs of labels above 0, in reading order: columns start … stop - 1 of `row`."""

    label: np.ndarray  # int64
    row: np.ndarray  # int64
    start: np.ndarray  # int64
    stop: np.ndarray  # int64

    @property
    def length(self) -> np.ndarray:
        return self.stop - self.start


def row_bands(shape: tuple[int, ...]) -> Iterator[slice]:
    """Slices of rows that cover an image [H, W] from top to bottom."""
    height, width = shape[:2]
    step = max(1, BAND_PIXELS // max(width, 1))
    for top in range(0, height, step):
        yield slice(top, min(top + step, height))


def runs_of(labels: np.ndarray, first_row: int = 0) -> Runs:
    """The runs of integer labels [H, W] >= 0, whose first row is numbered `first_row`."""
    height, width = labels.shape
    if not labels.size:
        return Runs(*(np.zeros(0, np.int64) for _ in Runs._fields))
    fresh = np.ones((height, width), bool)
    np.not_equal(labels[:, 1:], labels[:, :-1], out=fresh[:, 1:])
    starts = np.flatnonzero(fresh)
    stops = np.append(starts[1:], labels.size)
    values = labels.ravel()[starts].astype(np.int64)
    kept = values > 0
    values, starts, stops = values[kept], starts[kept], stops[kept]
    row = starts // width
    return Runs(values, row + first_row, starts - row * width, stops - row * width)


def all_runs(labels: np.ndarray) -> Runs:
    """The runs of a whole image, found band by band."""
    parts = [runs_of(labels[rows], rows.start) for rows in row_bands(labels.shape)]
    if not parts:
        return runs_of(labels)
    return Runs(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
