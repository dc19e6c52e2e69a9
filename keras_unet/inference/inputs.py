"""Inputs of a prediction: images in memory, image files, stacks and Zarr, read by windows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from keras_unet.data.images import PictureFile, is_zarr, open_windows
from keras_unet.data.pairs import (
    images_folder,
    is_image_name,
    left_out,
    match_files,
    natural_key,
    stem_of,
)
from keras_unet.data.stored_pixels import PixelSize, WindowedFile, as_nan, missing_pixels
from keras_unet.errors import DataError
from keras_unet.remote_path import local_path

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
    require_finite(strip, slice(start, stop))
    return strip


def require_finite(window: np.ndarray, rows: slice) -> None:
    """Raises a DataError where a value is infinite; NaN is none."""
    if window.dtype.kind in "fc" and np.isinf(window).any():
        raise DataError(f"image holds infinite values in rows {rows.start} to {rows.stop}")


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


@dataclass(frozen=True)
class Header:
    """What a file holds, its pixels unread; attributes as those of `WindowedFile`."""

    path: Path
    shapes: Sequence[tuple[int, int, int]]
    pixel_size: PixelSize | None = None
    left_out: tuple[str, ...] = ()


def find_inputs(images: str | Path, say: Callable[[str], None] | None = None) -> list[Path]:
    """The files to segment, in natural order.

    Args:
        images: an image, a TIFF stack, a Zarr array or OME-Zarr image (a folder), a folder of
            such, or a folder that holds them in `images/`.
        say: called with what is left out of the folder.

    Raises:
        DataError: nothing there, or two files whose results would have the same name.
    """
    images = local_path(images)
    if is_zarr(images):
        return [images]
    folder, notes = images_folder(images)
    arrays = [p for p in folder.iterdir() if is_zarr(p)] if folder.is_dir() else []
    files: Sequence[Path] = ()
    others = set(folder.iterdir()) - set(arrays) if arrays else set()
    if arrays and not any(map(is_image_name, others)):
        notes += left_out(folder, others)
    else:
        matched = match_files(folder, skip=arrays)
        if matched.problems:
            raise DataError("\n".join(map(str, matched.problems)))
        files = [image for image, _ in matched.files]
        notes += matched.notes
    for note in notes:
        if say is not None:
            say(f"note: {note}")
    found: dict[str, Path] = {}
    for path in sorted([*files, *arrays], key=lambda path: (natural_key(path.name), path.name)):
        stem = name_of(path)
        if stem in found:
            raise DataError(
                f"{path}: has the same name as {found[stem].name}; expected each name once"
            )
        found[stem] = path
    return list(found.values())


def name_of(path: Path) -> str:
    """What the results are called by: `cells` for cells.ome.tif, `plate_0` for plate.zarr/0."""
    parent = path.parent
    if path.suffix == "" and parent.suffix == ".zarr":
        return f"{stem_of(parent)}_{path.name}"
    return stem_of(path)


def open_images(path: Path, channels: int) -> WindowedFile:
    """Opens a file for reading window by window, in a `with` block.

    Args:
        path: what `find_inputs` gave.
        channels: of the model.

    Raises:
        DataError: unreadable, or its images don't have `channels` channels; names the axes.
    """
    return _of_channels(open_windows(path, channels), channels)


def _of_channels(file: WindowedFile, channels: int) -> WindowedFile:
    """The file itself; closed, and refused, if an image has another number of channels."""
    for number, shape in enumerate(file.shapes):
        if shape[2] != channels:
            counted = "".join(f"{name} {size}, " for name, size in file.axes)
            where = f"image {number} of " if len(file) > 1 else ""
            file.close()
            raise DataError(
                f"{file.path}: {where}axes {counted}Y {shape[0]}, X {shape[1]}, C {shape[2]}: "
                f"{shape[2]} channel{'s' * (shape[2] != 1)}; this model expects {channels}"
            )
    return file


def read_header(path: Path, channels: int) -> Header:
    """What a file of `find_inputs` holds.

    Args:
        channels: of the model.

    Raises:
        DataError: unreadable; for TIFF and Zarr also: not as many channels as the model has.
    """
    with open_windows(path, channels) as images:
        if isinstance(images, PictureFile):
            return Header(path, [(*images.shapes[0][:2], channels)])
        _of_channels(images, channels)
        return Header(path, images.shapes, images.pixel_size, images.left_out)
