"""Stored pixels: type, nodata, orientation and size as a file states them; windows of them.

Nodata is NaN, the value of the tag GDAL_NODATA, or what a transparency mask leaves out. Such
pixels count neither in statistics nor in the loss nor in a score; the network sees the value
there that normalisation makes 0. In floating point images they are NaN; integers have no such
number, so there a mask [H, W] says which they are. Sources: GDAL's driver GTiff (tag 42113,
GDAL_NODATA); TIFF 6.0 (NewSubfileType, transparency mask; section 8, tag 274, Orientation: 1 is
upright, 2 to 4 are mirrored or turned by half, 5 to 8 exchange rows and columns; EXIF has the
same numbers).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from keras_unet.errors import DataError
from keras_unet.settings import Frozen

MOST_CHANNELS = 6  # a lone axis C longer than this is a stack that was saved without saying so
NODATA = "nodata: NaN, the tag GDAL_NODATA or a transparency mask"
TOLERANCE = 1e-6  # relative: tags hold floating point numbers as text, of fewer digits at times


def pixel_type(path: str | Path, dtype: np.dtype) -> np.dtype:
    """The type that pixels stored as `dtype` are given in, in this machine's byte order.

    Raises:
        DataError: neither integers of 8 to 32 bits nor floating point.
    """
    dtype = np.dtype(dtype).newbyteorder("=")
    if dtype in (np.float64, np.float16):
        return np.dtype(np.float32)
    if dtype.kind not in "uif" or dtype.itemsize > 4:
        raise DataError(
            f"{path}: holds {dtype} pixels; expected integers of 8 to 32 bits or floating point"
        )
    return dtype


def refuse_transparency(path: Path, opacity: np.ndarray, hint: str = "") -> None:
    """Raises DataError unless every pixel is opaque."""
    opaque = np.iinfo(opacity.dtype).max if opacity.dtype.kind in "ui" else 1
    if np.any(opacity != opaque):
        raise DataError(
            f"{path}: is partly transparent (opacity down to {opacity.min():g} of {opaque}); "
            f"expected an opaque image: flatten it, or drop its alpha channel{hint}"
        )


def from_cmyk(inks: np.ndarray) -> np.ndarray:
    """RGB of inks [H, W, 4], uint8 or uint16, without a colour profile: (1 - ink)(1 - black).

    Rounded down, as TensorFlow's decoder of JPEG does.
    """
    most = np.iinfo(inks.dtype).max
    light = (most - inks).astype(np.uint32)
    return (light[..., :3] * light[..., 3:] // most).astype(inks.dtype)


def nodata_value(text: object) -> float | None:
    """The number in a tag GDAL_NODATA, None where there is none."""
    try:
        return float(str(text).strip(" \0\n\t").replace(",", "."))
    except ValueError:
        return None


def missing_pixels(pixels: np.ndarray, nodata: float | None = None) -> np.ndarray | None:
    """Which pixels of [H, W, C] were not measured: bool [H, W], None where all were.

    A pixel is missing if any channel is NaN or has the value `nodata`; of unsigned integers, whose
    smallest and largest numbers are colours too, if all channels have it.
    """
    if pixels.dtype.kind == "f":
        found = np.isnan(pixels)
        if nodata is not None and not np.isnan(nodata):
            with np.errstate(over="ignore"):
                value = np.asarray(nodata).astype(pixels.dtype)
            found |= np.isclose(pixels, value, rtol=TOLERANCE, atol=0)
    elif nodata is not None and nodata == np.clip(nodata, *_limits(pixels.dtype)):
        found = pixels == nodata
    else:
        return None
    if not found.any():
        return None
    missing = found.all(axis=-1) if pixels.dtype.kind == "u" else found.any(axis=-1)
    return missing if missing.any() else None


def as_nan(pixels: np.ndarray, missing: np.ndarray | None) -> np.ndarray:
    """[H, W, C] with NaN in what is missing: float32; the same array where nothing is."""
    if missing is None:
        return pixels
    out = pixels.astype(np.float32)
    out[missing] = np.nan
    return out


def filled(
    pixels: np.ndarray, missing: np.ndarray | None, value: np.ndarray | None = None
) -> np.ndarray:
    """[H, W, C] in its dtype with a number in what is missing; the same array where nothing is.

    Args:
        value: [C]; None: the mean of the measured pixels, 0 if there is none.
    """
    if missing is None:
        return pixels
    if value is None:
        measured = pixels[~missing]
        value = measured.mean(axis=0, dtype=np.float64) if len(measured) else np.zeros(1)
    if pixels.dtype.kind in "ui":
        value = np.rint(value).clip(*_limits(pixels.dtype))
    out = pixels.copy()
    out[missing] = value.astype(pixels.dtype)
    return out


def _limits(dtype: np.dtype) -> tuple[int, int]:
    limits = np.iinfo(dtype)
    return int(limits.min), int(limits.max)


UPRIGHT = 1
_ORIENTATION_TAG = 274
# Where the image's first row and first column end up on the other side, after any transposition.
_BOTTOM_FIRST, _RIGHT_FIRST = (3, 4, 7, 8), (2, 3, 6, 7)


def stated_orientation(value: Any) -> int:
    """The orientation that a tag's value means: 1 to 8; anything else is upright."""
    number = value[0] if isinstance(value, tuple) and value else value
    return int(number) if isinstance(number, int) and 1 <= number <= 8 else UPRIGHT


def page_orientation(page: Any) -> int:
    """Orientation of a page of a TIFF file, 1 to 8.

    Args:
        page: tifffile's; a page of its own, not a frame that stands for one.
    """
    return stated_orientation(page.tags.valueof(_ORIENTATION_TAG, UPRIGHT))


def upright(array: np.ndarray, orientation: int) -> np.ndarray:
    """Stored pixels [H, W, ...] as they are displayed; H and W change places from 5 on."""
    array = array.swapaxes(0, 1) if orientation >= 5 else array
    array = array[::-1] if orientation in _BOTTOM_FIRST else array
    return array[:, ::-1] if orientation in _RIGHT_FIRST else array


def upright_shape(shape: tuple[int, int, int], orientation: int) -> tuple[int, int, int]:
    """What stored pixels of `shape` (H, W, C) have once displayed."""
    height, width, channels = shape
    return (width, height, channels) if orientation >= 5 else shape


def stored_window(
    rows: slice, columns: slice, shape: tuple[int, int, int], orientation: int
) -> tuple[slice, slice]:
    """Rows and columns, as stored, of a window of what is displayed.

    Args:
        rows, columns: of the displayed image; 0 <= start < stop <= size.
        shape: (H, W, C) as displayed.
    """
    if orientation in _BOTTOM_FIRST:
        rows = slice(shape[0] - rows.stop, shape[0] - rows.start)
    if orientation in _RIGHT_FIRST:
        columns = slice(shape[1] - columns.stop, shape[1] - columns.start)
    return (columns, rows) if orientation >= 5 else (rows, columns)


# Micrometres in one unit, by the names that OME-XML, OME-Zarr and ImageJ use.
_UNITS = {
    name: micrometres
    for micrometres, names in (
        (1.0, "µm μm um micron microns micrometer micrometre"),  # micro sign, Greek mu
        (1e-3, "nm nanometer"),
        (1e-6, "pm"),
        (1e-4, "å angstrom"),
        (1e3, "mm millimeter"),
        (1e4, "cm centimeter"),
        (1e6, "m meter"),
        (25400.0, "in inch"),
    )
    for name in names.split()
}


class PixelSize(Frozen):
    """Micrometres from one pixel to the next: down a column, along a row, from slice to slice."""

    height: float = Field(gt=0, allow_inf_nan=False)
    width: float = Field(gt=0, allow_inf_nan=False)
    depth: float | None = Field(None, gt=0, allow_inf_nan=False)


def in_micrometres(value: Any, unit: str | None) -> float | None:
    """A length in µm; None if it is no positive number or the unit is none of length."""
    factor = _UNITS.get(str(unit).strip().replace("\\u00B5", "µ").lower())
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    known = factor is not None and 0 < number < float("inf")
    return number * factor if known and factor else None


def pixel_size(height: float | None, width: float | None, depth: float | None) -> PixelSize | None:
    """A `PixelSize` if height and width are known."""
    if height is None or width is None:
        return None
    return PixelSize(height=height, width=width, depth=depth)


def ome_size(size: PixelSize | None, axes: str) -> dict[str, Any]:
    """The attributes of OME's `Pixels` that tell a size along some of `axes`, as in "ZYX"."""
    known = {} if size is None else {"Y": size.height, "X": size.width, "Z": size.depth}
    found: dict[str, Any] = {}
    for axis, micrometres in known.items():
        if axis in axes and micrometres is not None:
            found |= {f"PhysicalSize{axis}": micrometres, f"PhysicalSize{axis}Unit": "µm"}
    return found


def tiff_resolution(size: PixelSize | None) -> dict[str, Any]:
    """Pixels a centimetre, for `tifffile.write` and programs that read no description."""
    if size is None:
        return {}
    return {"resolution": (1e4 / size.width, 1e4 / size.height), "resolutionunit": "CENTIMETER"}


class WindowedImage:
    """An image [H, W, C] cut into blocks, which are loaded when a window needs them.

    The blocks of the last window are kept: reading from top to bottom in strips that
    overlap loads each block once.

    Args:
        path: for messages.
        shape: (H, W, C) of the pixels as they are stored.
        dtype: of what `load` returns.
        block: height and width of a block; those at the lower and right border are cut off.
        load: block row and block column to pixels [h, w, C].
        opacity: the last channel of what `load` returns is opacity, one more than C: it is
            dropped if everything is opaque.
        orientation: 1 to 8, how the stored pixels are turned to be displayed (see `upright`).
        nodata: the value of pixels that were never measured.
        mask: of one channel and the same size, 0 where there is no pixel.

    Attributes:
        shape: (H, W, C) as displayed, as are the windows that `read` gives; `block` is as stored.
    """

    def __init__(
        self,
        path: str | Path,
        shape: tuple[int, int, int],
        dtype: np.dtype,
        block: tuple[int, int],
        load: Callable[[int, int], np.ndarray],
        *,
        opacity: bool = False,
        orientation: int = UPRIGHT,
        nodata: float | None = None,
        mask: WindowedImage | None = None,
    ) -> None:
        if 0 in shape:
            raise DataError(f"{path}: is {shape[0]}x{shape[1]}; expected pixels")
        self.path = Path(path)
        self.shape = upright_shape(shape, orientation)
        self.dtype = pixel_type(path, dtype)
        self.block = block
        self._load = load
        self._opacity = opacity
        self._orientation = orientation
        self._nodata, self._mask = nodata, mask
        self._stored = shape
        self._kept: dict[tuple[int, int], np.ndarray] = {}

    def read(self, rows: slice, columns: slice) -> np.ndarray:
        """The window [h, w, C] in `dtype`; 0 <= start < stop <= size.

        Raises:
            DataError: the file is damaged, or partly transparent.
        """
        stored = stored_window(rows, columns, self.shape, self._orientation)
        return upright(self._read(*stored), self._orientation)

    def missing(self, rows: slice, columns: slice, window: np.ndarray) -> np.ndarray | None:
        """Which pixels of what `read` gave were never measured: bool [h, w]; None: all were."""
        found = missing_pixels(window, self._nodata)
        if self._mask is None:
            return found
        outside = self._mask.read(rows, columns)[..., 0] == 0
        return outside if found is None else found | outside

    def _read(self, rows: slice, columns: slice) -> np.ndarray:
        shape = (rows.stop - rows.start, columns.stop - columns.start, self._stored[2])
        out = np.empty(shape, self.dtype)
        used: dict[tuple[int, int], np.ndarray] = {}
        for i, inside_y, outside_y in _overlaps(rows, self.block[0]):
            for j, inside_x, outside_x in _overlaps(columns, self.block[1]):
                block = self._kept.get((i, j))
                if block is None:
                    block = self._checked(i, j)
                used[i, j] = block
                with np.errstate(over="ignore"):  # float64's least number may mark missing pixels
                    out[outside_y, outside_x] = block[inside_y, inside_x]
        self._kept = used
        return out

    def _checked(self, i: int, j: int) -> np.ndarray:
        block = self._load(i, j)
        if self._opacity:
            refuse_transparency(self.path, block[..., -1])
            block = block[..., :-1]
        expected = tuple(
            min(length, size - index * length)
            for length, size, index in zip(self.block, self._stored[:2], (i, j), strict=True)
        )
        if block.shape != (*expected, self._stored[2]):
            raise DataError(
                f"{self.path}: damaged: found a block of {block.shape}, expected "
                f"{(*expected, self._stored[2])}"
            )
        return block


class WindowedFile(AbstractContextManager["WindowedFile"]):
    """An open file of one image or several: what each kind of file has in common.

    Attributes:
        path: of the file.
        shapes: (H, W, C) of each image, in order.
        axes: what the images are counted by, outermost first: (("T", 3), ("Z", 10)); empty for a
            single image; ("Z", n) where the file leaves it open.
        pixel_size: None if the file states none.
        left_out: what a TIFF holds beside its images, see `TiffStack`.
    """

    path: Path
    shapes: Sequence[tuple[int, int, int]]
    axes: tuple[tuple[str, int], ...] = ()
    pixel_size: PixelSize | None = None
    left_out: tuple[str, ...] = ()

    def page(self, number: int) -> WindowedImage:
        """Image `number`, from 0."""
        raise NotImplementedError

    def close(self) -> None:
        """Nothing to close, unless a kind of file needs it."""

    def __len__(self) -> int:
        return len(self.shapes)

    def __exit__(self, *unused: object) -> None:
        self.close()


def _overlaps(span: slice, length: int) -> Iterator[tuple[int, slice, slice]]:
    """(number of a block, part within the block, part within the span) of each block in a span."""
    for number in range(span.start // length, -(-span.stop // length)):
        top = number * length
        start, stop = max(span.start, top), min(span.stop, top + length)
        yield number, slice(start - top, stop - top), slice(start - span.start, stop - span.start)
