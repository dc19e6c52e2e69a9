"""Rescaling of an image to the scale that a network knows, and of its answer to the image's size.

Both go window by window, and a window is, bit for bit, a part of the whole: along each axis a pixel
is a weighted sum of a few neighbours, always the same ones in the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from scipy import sparse

from keras_unet.data.stored_pixels import as_nan
from keras_unet.inference.inputs import STRIP, Source, missing_of, require_finite


class Kernel(NamedTuple):
    """Weight of a neighbour by its distance in pixels, 0 from `reach` on."""

    weight: Callable[[np.ndarray], np.ndarray]
    reach: int


def _triangle(x: np.ndarray) -> np.ndarray:
    return np.maximum(1 - np.abs(x), 0)


def _cubic(x: np.ndarray) -> np.ndarray:
    x = np.abs(x)
    near = (1.5 * x - 2.5) * x**2 + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0))


BILINEAR = Kernel(_triangle, 1)
BICUBIC = Kernel(_cubic, 2)  # Keys 1981, IEEE TASSP 29:1153, with a = -1/2


class Interpolation:
    """Interpolation along one axis, from `given` pixels to `made`.

    Where it shrinks, the kernel is as much wider, so that nothing aliases (as Pillow has it).
    """

    def __init__(self, given: int, made: int, kernel: Kernel) -> None:
        self.made = made
        step = given / made
        wide = max(step, 1.0)
        centre = (np.arange(made) + 0.5) * step - 0.5
        reach = kernel.reach * wide
        index = np.floor(centre - reach).astype(np.int64)[:, None]
        index = index + np.arange(int(np.ceil(2 * reach)) + 2)
        weight = kernel.weight((index - centre[:, None]) / wide)
        weight[(index < 0) | (index >= given)] = 0
        weight /= weight.sum(axis=1, keepdims=True)
        used = weight != 0
        starts = np.concatenate([[0], used.sum(axis=1).cumsum()])
        entries = (weight[used].astype(np.float32), index[used], starts)
        self._matrix = sparse.csr_array(entries, shape=(made, given))
        first = np.minimum.reduceat(index[used], starts[:-1])
        last = np.maximum.reduceat(index[used], starts[:-1])
        # a weight that happens to be 0 must not hide what a pixel beside it needs
        self._first = np.minimum.accumulate(first[::-1])[::-1]
        self._last = np.maximum.accumulate(last)

    def span(self, made: slice) -> slice:
        """The given pixels that these are made of."""
        return slice(int(self._first[made.start]), int(self._last[made.stop - 1]) + 1)

    def ready(self, given: int) -> int:
        """How many pixels can be made of the first `given` ones."""
        return int(np.searchsorted(self._last, given))

    def __call__(self, window: np.ndarray, made: slice) -> np.ndarray:
        """float32 [span(made), ...] to [made, ...]."""
        part = self._matrix[made, self.span(made)] @ window.reshape(len(window), -1)
        return part.reshape(-1, *window.shape[1:])

    def across(self, window: np.ndarray, made: slice) -> np.ndarray:
        """Along the second axis: float32 [h, span(made), ...] to [h, made, ...]."""
        return np.ascontiguousarray(self(window.swapaxes(0, 1), made).swapaxes(0, 1))


class Rescaled:
    """An image as a network is to see it: a `Source` of `size` (height, width) that reads another.

    Its windows are float32, NaN where less than half of what a pixel is made of was measured.

    Attributes:
        incomplete: whether a pixel of what has been read of the source was never measured.
    """

    def __init__(self, source: Source, size: tuple[int, int]) -> None:
        self.source = source
        self.shape = (*size, source.shape[2])
        self.dtype = np.dtype(np.float32)
        self.incomplete = False
        self._rows, self._columns = (
            Interpolation(given, made, BICUBIC)
            for given, made in zip(source.shape[:2], size, strict=True)
        )
        # so many rows at a time that the source is read by strips of about STRIP rows
        self._step = max(1, STRIP * size[0] // source.shape[0])

    def read(self, rows: slice, columns: slice) -> np.ndarray:
        """The window [h, w, C].

        Raises:
            DataError: a value of the source is infinite, which would spread.
        """
        starts = range(rows.start, rows.stop, self._step)
        parts = [self._read(slice(n, min(n + self._step, rows.stop)), columns) for n in starts]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _read(self, rows: slice, columns: slice) -> np.ndarray:
        window = self._rows.span(rows), self._columns.span(columns)
        given = self.source.read(*window)
        require_finite(given, window[0])
        missing = missing_of(self.source, *window, given)
        if missing is None:
            return self._interpolated(given.astype(np.float32), rows, columns)
        self.incomplete = True
        given = np.where(missing[..., None], 0, given).astype(np.float32)
        # what is lost is exactly 0 away from missing pixels, where nothing must change
        lost = self._interpolated(missing[..., None].astype(np.float32), rows, columns)
        made = self._interpolated(given, rows, columns) / np.maximum(1 - lost, 0.5)
        return as_nan(made, lost[..., 0] > 0.5)

    def _interpolated(self, window: np.ndarray, rows: slice, columns: slice) -> np.ndarray:
        return self._columns.across(self._rows(window, rows), columns)


def resized(array: np.ndarray, size: tuple[int, int], kernel: Kernel = BILINEAR) -> np.ndarray:
    """float32 [H, W, ...] as [*size, ...]."""
    rows, columns = (Interpolation(n, m, kernel) for n, m in zip(array.shape, size, strict=False))
    return rows(columns.across(array, slice(0, size[1])), slice(0, size[0]))


def resized_bands(
    bands: Iterator[tuple[slice, np.ndarray]],
    rows: Interpolation,
    columns: Interpolation,
    first_row: int,
) -> Iterator[tuple[slice, np.ndarray]]:
    """Bands of rows [h, w, K], top to bottom, as bands of another size, each as soon as it can be.

    Args:
        bands: (rows, values) from any row up to those that `first_row` is made of, to the end.
        rows, columns: from their size to that of the result.
        first_row: of the result, where it begins.
    """
    kept: np.ndarray | None = None  # the newest rows, as many as are still needed
    for span, values in bands:
        wide = columns.across(values, slice(0, columns.made))
        kept = wide if kept is None else np.concatenate([kept, wide])
        top = span.stop - len(kept)
        for start in range(first_row, rows.ready(span.stop), STRIP):
            ready = slice(start, min(start + STRIP, rows.ready(span.stop)))
            needed = rows.span(ready)
            yield ready, rows(kept[needed.start - top : needed.stop - top], ready)
            first_row = ready.stop
        if first_row < rows.made:
            kept = kept[max(rows.span(slice(first_row, first_row + 1)).start - top, 0) :]
