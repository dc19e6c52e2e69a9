"""Masks and probabilities on disk, to make objects of: which files, and their pages."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from keras_unet.data.images import ImageFile, is_tiff, read_image
from keras_unet.data.pixel_size import PixelSize
from keras_unet.data.tiff_windows import TiffWindows
from keras_unet.data.windows import ArrayFile, WindowedFile
from keras_unet.data.zarr_windows import ZarrWindows, is_zarr
from keras_unet.errors import DataError
from keras_unet.inference.files.inputs import find_inputs, name_of

_ENDS = {False: "_mask", True: "_probabilities"}
_OTHERS = ("_mask", "_probabilities", "_overlay", "_labels", "_objects")


def find_masks(path: str | Path, probabilities: bool) -> dict[str, Path]:
    """The files to read by the name of their image, in natural order.

    A folder as `predict` leaves it holds several files for an image; of these only the masks, or
    only the probabilities, are taken. A folder without such names is taken as a whole.

    Raises:
        DataError: nothing there, or only files of the other kind.
    """
    files = find_inputs(path)
    end = _ENDS[probabilities]
    chosen = [file for file in files if name_of(file).endswith(end)] or files
    if chosen is files and len(files) > 1:
        others = [file for file in files if name_of(file).endswith(_OTHERS)]
        if others:
            raise DataError(
                f"{path}: no file NAME{end}, but {others[0].name}; expected "
                + ("probabilities, for a threshold" if probabilities else "masks")
            )
    return {name_of(file).removesuffix(end): file for file in chosen}


def open_file(path: Path) -> WindowedFile:
    """Opens an image, a stack or a Zarr array, whatever its channels."""
    if is_zarr(path):
        return ZarrWindows(path)
    return TiffWindows(path) if is_tiff(path) else ArrayFile(path, read_image)


def whole(file: WindowedFile, page: int) -> np.ndarray:
    """A page's pixels [H, W, C]."""
    height, width, _ = file.shapes[page]
    return file.page(page).read(slice(0, height), slice(0, width))


def class_pages(path: Path) -> Iterator[np.ndarray]:
    """Class values int32 [H, W] of each page of a mask file."""
    if is_zarr(path):
        with open_file(path) as file:
            for page in range(len(file)):
                pixels = whole(file, page)
                if pixels.shape[2] != 1 or pixels.dtype.kind == "f":
                    raise DataError(
                        f"{path}: holds {pixels.shape[2]} channels of {pixels.dtype}; expected a "
                        "mask: one channel of integers"
                    )
                limits = np.iinfo(np.int32)
                low, high = int(pixels.min()), int(pixels.max())
                if low < limits.min or high > limits.max:
                    raise DataError(
                        f"{path}: holds labels from {low} to {high}; expected at most {limits.max}"
                    )
                yield pixels[..., 0].astype(np.int32)
        return
    with ImageFile(path) as file:
        for page in range(len(file)):
            yield file.labels(page)


def foreground_pages(path: Path) -> Iterator[np.ndarray]:
    """The foreground's probability, float32 [H, W], of each image in a file of probabilities.

    That is 1 - the background's, the first class. The classes are the channels, or else the pages:
    as many as sum up to 1. A single channel whose pages don't is the foreground's own.
    Integers are read as fractions of their largest value (255, 65,535).

    Raises:
        DataError: values outside 0 to 1.
    """
    with open_file(path) as file:
        classes = _classes_by_page(file, path) if file.shapes[0][2] == 1 else 1
        for first in range(0, len(file), classes):
            page = _fractions(file, first, path)
            single = page.shape[2] == 1 and classes == 1
            yield page[..., 0] if single else np.float32(1) - page[..., 0]


def pages_of(path: Path, probabilities: bool) -> tuple[int, PixelSize | None]:
    """How many images a file gives, and the pixel size if it states one."""
    with open_file(path) as file:
        count = len(file)
        if probabilities and file.shapes[0][2] == 1:
            count //= _classes_by_page(file, path)
        return count, file.pixel_size


def _classes_by_page(file: WindowedFile, path: Path) -> int:
    """How many pages make up an image: the fewest whose probabilities sum up to 1; else 1."""
    total = _fractions(file, 0, path)
    for page in range(1, len(file)):
        if file.shapes[page] != file.shapes[0]:
            return 1
        total = total + _fractions(file, page, path)
        # each class is off by half a step, of 1/255 in the coarsest kind of file
        if np.all(np.abs(total - 1) <= 0.002 * (page + 1) + 1e-3):
            return page + 1 if len(file) % (page + 1) == 0 else 1
    return 1


def _fractions(file: WindowedFile, page: int, path: Path) -> np.ndarray:
    pixels = whole(file, page)
    if pixels.dtype.kind != "f":
        return pixels.astype(np.float32) / np.float32(np.iinfo(pixels.dtype).max)
    low, high = float(pixels.min()), float(pixels.max())
    if not (low >= -1e-3 and high <= 1 + 1e-3):  # also for NaN
        raise DataError(
            f"{path}: holds values from {low:g} to {high:g}; expected probabilities from 0 to 1"
        )
    return pixels
