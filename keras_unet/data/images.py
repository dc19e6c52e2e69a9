"""Image and label files as arrays: PNG, JPEG (images only) and TIFF, told apart by content."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType

import numpy as np

from keras_unet.data.nodata import as_nan
from keras_unet.data.png_jpeg import Picture
from keras_unet.data.tiff import TiffStack
from keras_unet.data.windows import pixel_type, refuse_transparency
from keras_unet.errors import DataError

EXTENSIONS = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def read_image(path: str | Path, page: int | None = None) -> np.ndarray:
    """One image as [height, width, channels], in the dtype it is stored in.

    Grey gives C = 1, colour, palettes and CMYK C = 3 (channels of a TIFF: as many as there are).
    Images of 1, 2 and 4 bits become uint8 from 0 to 255; where white is 0 (a TIFF's MinIsWhite),
    levels are inverted; float64 becomes float32. A channel of opacity (alpha) is dropped if
    everything is opaque, and refused otherwise. Images come upright (EXIF, a TIFF's Orientation).
    Pixels that were never measured (GDAL_NODATA, a transparency mask) are NaN in floating point
    images; integers stay as they are.

    Args:
      path: PNG, JPEG or TIFF; what the file holds decides, not its name.
      page: which page of a TIFF stack, from 0; None if the file holds a single image.

    Raises:
      DataError: missing, unreadable, truncated, too large (Pillow's limit against decompression
        bombs), of a kind that would lose bits, or a stack without `page`.
    """
    with ImageFile(path) as file:
        return file.image(page)


def read_labels(path: str | Path, page: int | None = None) -> np.ndarray:
    """One label image as int32 [height, width].

    Integers and floating point numbers without fractions are taken as they are stored, whatever
    they are shown as (a palette gives its indices; grey of 2 or 4 bits, or from white to black, its
    numbers); one bit gives 0 for black and 255 for white. Colour is accepted if its three channels
    are equal (grey saved as RGB). EXIF and a TIFF's Orientation turn labels as they do images.

    Raises:
      DataError: as `read_image`; also colour, fractions, NaN, and values beyond int32.
    """
    with ImageFile(path) as file:
        return file.labels(page)


def count_pages(path: str | Path) -> int:
    """How many images the file holds: 1, or more for a TIFF stack.

    Raises:
      DataError: missing or unreadable.
    """
    with ImageFile(path) as file:
        return len(file)


def is_tiff(path: str | Path) -> bool:
    """Whether the file begins as a TIFF file does; False too if it can't be opened."""
    try:
        with Path(path).open("rb") as file:
            return file.read(4) in _TIFF_STARTS
    except OSError:
        return False


class ImageFile(AbstractContextManager["ImageFile"]):
    """An open image file: a sequence of images, read when asked for. See `read_image`.

    Args:
      path: the file. data: its content, if it is in memory: a PNG or JPEG within the file `path`.
    """

    def __init__(self, path: str | Path, data: bytes | None = None) -> None:
        self.path = Path(path)
        self._stack: TiffStack | None = None
        if data is None:
            try:
                with self.path.open("rb") as file:
                    head = file.read(4)
            except OSError as error:
                raise DataError(
                    f"{self.path}: cannot be opened ({error.strerror or error})"
                ) from error
            if not head:
                raise DataError(f"{self.path}: is empty (0 bytes); expected an image")
            if head in _TIFF_STARTS:
                self._stack = TiffStack(self.path)
                return
        self._picture = Picture(self.path, data)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        if self._stack is not None:
            self._stack.close()

    def __len__(self) -> int:
        return 1 if self._stack is None else len(self._stack)

    @property
    def lossy(self) -> bool:
        """Whether the pixels went through JPEG, which changes label values."""
        return self._picture.lossy if self._stack is None else self._stack.lossy

    @property
    def left_out(self) -> tuple[str, ...]:
        """What a TIFF holds beside its images, see `TiffStack`."""
        return () if self._stack is None else self._stack.left_out

    def palette(self, page: int | None = None) -> np.ndarray | None:
        """The colours that label numbers are shown in, uint8 [N, 3]; None if as grey levels."""
        return self._picture.palette() if self._stack is None else self._stack.palette(page or 0)

    def orientation(self, page: int | None = None) -> int:
        """How the stored pixels are turned to be displayed, 1 to 8; see `upright`."""
        if self._stack is None:
            return self._picture.orientation
        return self._stack.orientation(page or 0)

    def inverted(self, page: int | None = None) -> bool:
        """Whether labels of one bit are read as shown, the other way round than bits are stored."""
        return self._stack is not None and self._stack.inverted(page or 0)

    def image(self, page: int | None = None) -> np.ndarray:
        """Page `page` as [H, W, C]; see `read_image`."""
        array, missing = self.measured(page)
        return as_nan(array, missing) if array.dtype.kind == "f" else array

    def measured(self, page: int | None = None) -> tuple[np.ndarray, np.ndarray | None]:
        """Page `page` as [H, W, C] as it is stored, and which of its pixels are none.

        Those are bool [H, W] (see `keras_unet.data.nodata`), or None if all were measured.
        """
        array = self._read(page, stored=False)
        with np.errstate(over="ignore"):  # of float64, whose least number may mark missing pixels
            array = np.ascontiguousarray(array, pixel_type(self.path, array.dtype))
        if self._stack is None:
            return array, None
        return array, self._stack.missing(page or 0, array)

    def labels(self, page: int | None = None) -> np.ndarray:
        """Page `page` as int32 [H, W]; see `read_labels`."""
        array = self._read(page, stored=True)
        channels = array.shape[2]
        if channels != 1:
            grey = array[..., :1]
            if channels != 3 or not np.array_equal(array, np.broadcast_to(grey, array.shape)):
                raise DataError(
                    f"{self.path}: is a label image with {channels} channels that differ (one "
                    "class a colour? save class numbers; pages of a stack? save them as pages); "
                    "expected one channel of integers, a palette, or grey saved as RGB"
                )
            array = grey
        array = array[..., 0]
        if array.dtype.kind == "f":
            if not np.all(np.isfinite(array)):
                raise DataError(f"{self.path}: holds NaN or infinite labels; expected integers")
            fractions = np.count_nonzero(array != np.rint(array))
            if fractions:
                raise DataError(
                    f"{self.path}: holds {fractions} labels that are not whole numbers (from "
                    f"{array.min():g} to {array.max():g}); expected integers"
                )
        elif array.dtype.kind not in "ui":
            raise DataError(f"{self.path}: holds {array.dtype} labels; expected integers")
        low, high = array.min(), array.max()
        limits = np.iinfo(np.int32)
        if low < limits.min or high > limits.max:
            raise DataError(
                f"{self.path}: holds labels from {low} to {high}; expected at most {limits.max}"
            )
        return np.ascontiguousarray(array, np.int32)

    def _read(self, page: int | None, stored: bool) -> np.ndarray:
        """[H, W, C] as stored, without opacity."""
        if page is None and len(self) > 1:
            raise DataError(
                f"{self.path}: holds {len(self)} pages; expected a single image, or the page "
                "to read"
            )
        number = 0 if page is None else int(page)
        if not 0 <= number < len(self):
            raise DataError(
                f"{self.path}: has no page {number}; expected 0 to {len(self) - 1} "
                f"({len(self)} in all)"
            )
        if self._stack is None:
            array, alpha = self._picture.read(stored=stored)
        else:
            array = self._stack.read(number, stored=stored)
            alpha = array.shape[2] in (2, 4) and self._stack.opacity(self._stack.slots[number])
        if array.size == 0:
            raise DataError(f"{self.path}: is {array.shape[0]}x{array.shape[1]}; expected pixels")
        if alpha:
            hint = " (pages of a stack? save them as pages)" if self._stack else ""
            refuse_transparency(self.path, array[..., -1], hint)
            array = array[..., :-1]
        return array
