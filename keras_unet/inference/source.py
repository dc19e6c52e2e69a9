"""Where `predict` takes an image from: rows of it at a time, from memory or from a file."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from keras_unet.data.stored_pixels import as_nan, missing_pixels
from keras_unet.errors import DataError

STRIP = 512  # rows read together where the whole image is looked through


class Source(Protocol):
    """An image that is read by windows.

    `predict` reads whole rows, from top to bottom; strips of successive tiles overlap by the
    context of a tile, so that a source whose rows are dear to decode may keep the last ones.
    """

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels)."""

    @property
    def dtype(self) -> np.dtype:
        """As stored."""

    def read(self, rows: slice, columns: slice) -> np.ndarray:
        """The window [h, w, C]; both slices have 0 <= start < stop <= size and no step."""


class ArraySource:
    """An array [H, W, C], or [H, W] for one channel, as a `Source`."""

    def __init__(self, image: np.ndarray) -> None:
        image = np.asarray(image)
        self._image = image[..., None] if image.ndim == 2 else image

    @property
    def shape(self) -> tuple[int, int, int]:
        return self._image.shape  # type: ignore[return-value]  # checked by `check_source`

    @property
    def dtype(self) -> np.dtype:
        return self._image.dtype

    def read(self, rows: slice, columns: slice) -> np.ndarray:
        return self._image[rows, columns]


class Rows:
    """A source as an array that is sliced by rows, for `Normalization.parameters`.

    Bands are cut from strips of at least `STRIP` rows, so that a file stored in tiles is not
    decoded once for each band.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._top, self._strip = 0, np.empty((0, *source.shape[1:]), source.dtype)

    @property
    def shape(self) -> tuple[int, int, int]:
        return self._source.shape

    def __getitem__(self, rows: slice) -> np.ndarray:
        end = self._top + len(self._strip)
        if rows.start < self._top or rows.stop > end:
            kept = self._strip[rows.start - self._top :] if rows.start >= self._top else None
            first = end if kept is not None and len(kept) else rows.start
            last = min(max(rows.stop, first + STRIP), self.shape[0])
            new = read_rows(self._source, first, last)
            self._strip = new if first == rows.start else np.concatenate([kept, new])
            self._top = rows.start
        return self._strip[rows.start - self._top : rows.stop - self._top]


def read_rows(source: Source, start: int, stop: int) -> np.ndarray:
    """Rows start … stop - 1, [stop - start, W, C] in the source's dtype.

    Where pixels were never measured: float32, with NaN in them.

    Raises:
        DataError: a value is infinite, or the source gave another shape than asked for.
    """
    _, width, channels = source.shape
    strip = source.read(slice(start, stop), slice(0, width))
    if strip.shape != (stop - start, width, channels):
        raise DataError(
            f"rows {start} to {stop}: found {strip.shape}, expected "
            f"{(stop - start, width, channels)}"
        )
    strip = as_nan(strip, missing_of(source, slice(start, stop), slice(0, width), strip))
    if strip.dtype.kind in "fc" and np.isinf(strip).any():
        raise DataError(f"image holds infinite values in rows {start} to {stop}")
    return strip


def missing_of(
    source: Source, rows: slice, columns: slice, window: np.ndarray
) -> np.ndarray | None:
    """Which pixels of a window were never measured: bool [h, w], None where all were.

    A source may say so itself, in a method `missing`; of others, it is those that are NaN.
    """
    told = getattr(source, "missing", None)
    return missing_pixels(window) if told is None else told(rows, columns, window)


def check_source(source: Source, channels: int) -> None:
    """Raises a DataError where rank, channels or type do not fit the model."""
    shape = tuple(source.shape)
    if len(shape) != 3 or shape[-1] != channels or 0 in shape:
        raise DataError(f"image of shape {shape}: this model expects [height, width, {channels}]")
    if np.dtype(source.dtype).kind not in "biuf":
        raise DataError(f"image of type {source.dtype}: expected numbers")
