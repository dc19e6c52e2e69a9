"""Image and label files as arrays or by windows: PNG, JPEG and TIFF, told apart by content.

Of a PNG or JPEG only pixels, palette and orientation count; profiles and texts, of whatever size,
damaged or not, are passed over. The serving graph reads the same files to the same pixels, see
`graph_images`. Sources: PNG third edition, sections 5 and 11; ITU-T T.81, annex B; CIPA DC-008
(Exif 2.32).
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from PIL import Image

from keras_unet.data.stored_pixels import (
    UPRIGHT,
    PixelSize,
    WindowedFile,
    WindowedImage,
    as_nan,
    from_cmyk,
    pixel_type,
    refuse_transparency,
    stated_orientation,
    upright,
    upright_shape,
)
from keras_unet.errors import DataError

if TYPE_CHECKING:
    from keras_unet.data.tiff import TiffStack

EXTENSIONS = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
_ZARR_MARKS = (".zarray", ".zgroup", "zarr.json")
_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_PNG = b"\x89PNG\r\n\x1a\n"
_PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")  # chunks that pixels come from
_GREY, _PALETTE = 0, 3  # colour types
_GREY_MODES = ("1", "L", "LA", "I", "I;16", "I;16B")  # of Pillow
_EXIF, _ORIENTATION = b"Exif\0\0", 0x0112
_SCAN, _END = 0xDA, 0xD9  # markers; the pixels come after a scan's
_APP1, _ADOBE, _LAST_APP, _COMMENT = 0xE1, 0xEE, 0xEF, 0xFE

# which kinds of JPEG are read (T.81, table B.1)
JPEG_FRAMES = (*range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0))
JPEG_READABLE = (0xC0, 0xC1, 0xC2, 0xC9, 0xCA)  # frames: baseline, extended, progressive
JPEG_COMPONENTS = (1, 3, 4)  # grey, colour, inks
JPEG_EXPECTED = "8 bits, 1, 3 or 4 components, baseline or progressive"


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
    """How many images the file holds: 1, or more for a TIFF stack; of others only 4 bytes are read.

    Raises:
      DataError: missing, empty, or a TIFF that is unreadable.
    """
    path = Path(path)
    with _opened(path) as file:
        if not _begins_as_tiff(path, file):
            return 1
        from keras_unet.data.tiff import TiffStack

        with TiffStack(path, file=file) as stack:
            return len(stack)


def open_windows(path: Path, channels: int | None = None) -> WindowedFile:
    """Opens an image, a stack or a Zarr array once, and reads its header; use it with `with`.

    Args:
        path: PNG, JPEG or TIFF, told apart by content, or the folder of a Zarr array.
        channels: how many are expected, where the file leaves open which axis is theirs.

    Raises:
        DataError: missing, unreadable or damaged.
    """
    if is_zarr(path):
        from keras_unet.data.zarr_windows import ZarrWindows

        return ZarrWindows(path, channels)
    content = open_image(path)
    if isinstance(content, bytes):
        return PictureFile(path, content)
    from keras_unet.data.tiff_windows import TiffWindows

    return TiffWindows(path, channels, content)


def is_zarr(path: Path) -> bool:
    """Whether a folder is a Zarr array or group, of format 2 or 3."""
    return any((path / mark).is_file() for mark in _ZARR_MARKS)


def open_image(path: Path) -> BinaryIO | bytes:
    """A TIFF file, open at its start; of any other file, the content.

    Raises:
      DataError: missing, unreadable or empty.
    """
    file = _opened(path)
    try:
        if _begins_as_tiff(path, file):
            return file
        with file:
            return file.read()
    except OSError as error:
        raise _unopened(path, error) from error


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise _unopened(path, error) from error


def _begins_as_tiff(path: Path, file: BinaryIO) -> bool:
    head = file.read(4)
    if not head:
        file.close()
        raise DataError(f"{path}: is empty (0 bytes); expected an image")
    file.seek(0)
    return head in _TIFF_STARTS


def _unopened(path: Path, error: OSError) -> DataError:
    return DataError(f"{path}: cannot be opened ({error.strerror or error})")


class ImageFile(AbstractContextManager["ImageFile"]):
    """An open image file: a sequence of images, read when asked for. See `read_image`.

    Args:
      path: the file. data: its content, if it is in memory: a PNG or JPEG within the file `path`.
    """

    def __init__(self, path: str | Path, data: bytes | None = None) -> None:
        self.path = Path(path)
        self._stack: TiffStack | None = None
        content = open_image(self.path) if data is None else data
        if isinstance(content, bytes):
            self._picture = Picture(self.path, content)
            return
        from keras_unet.data.tiff import TiffStack

        self._stack = TiffStack(self.path, file=content)

    def __exit__(self, *unused: object) -> None:
        self.close()

    def close(self) -> None:
        if self._stack is not None:
            self._stack.close()

    def __len__(self) -> int:
        return 1 if self._stack is None else len(self._stack)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(H, W, C) that `image` will have, of a PNG or JPEG: no pixel is decoded.

        Raises:
          DataError: neither PNG nor JPEG, damaged, or too large.
        """
        return self._picture.shape

    @property
    def lossy(self) -> bool:
        """Whether the pixels went through JPEG, which changes label values."""
        return self._picture.lossy if self._stack is None else self._stack.lossy

    @property
    def left_out(self) -> tuple[str, ...]:
        """What a TIFF holds beside its images, see `TiffStack`."""
        return () if self._stack is None else self._stack.left_out

    @cached_property
    def pixel_size(self) -> PixelSize | None:
        """What a TIFF states, see `tiff_windows.read_pixel_size`; None of a PNG or JPEG."""
        if self._stack is None:
            return None
        from keras_unet.data.tiff_windows import readable_pixel_size

        return readable_pixel_size(self._stack.file)

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

        Those are bool [H, W] (see `keras_unet.data.stored_pixels`), or None if all were measured.
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


class PictureFile(WindowedFile):
    """A PNG or JPEG: its header is read at once, its pixels, whole, when a page is asked for."""

    def __init__(self, path: Path, content: bytes) -> None:
        self.path = path
        self._file: ImageFile | None = ImageFile(path, content)
        self.shapes = (self._file.shape,)

    def page(self, number: int) -> WindowedImage:
        if self._file is not None:  # afterwards, the pixels take the place of the content
            self._pixels, self._file = self._file.image(), None
        pixels = self._pixels
        return WindowedImage(
            self.path, pixels.shape, pixels.dtype, pixels.shape[:2], lambda i, j: pixels
        )


class Picture:
    """A PNG or JPEG file whose header has been read.

    Args:
      path: the file, for messages.
      content: what it holds.

    Attributes:
      lossy: whether it is a JPEG, which changes label values.
      orientation: 1 to 8, as EXIF states it; see `upright`.

    Raises:
      DataError: a kind of JPEG that few programs read.
    """

    lossy: bool
    orientation: int

    def __init__(self, path: Path, content: bytes) -> None:
        self._path = path
        self.orientation, self._palette = UPRIGHT, b""
        self._bits, self._colours = 8, _GREY
        self._inverted = False  # inks, as Adobe writes them
        self.lossy = content[:2] == b"\xff\xd8"
        if self.lossy:
            self._data = self._bare_jpeg(content)
        else:
            self._data = self._bare_png(content) if content[:8] == _PNG else content

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels) as displayed, without opacity.

        Raises:
          DataError: neither PNG nor JPEG, damaged, or too large.
        """
        with self._as_data_errors(), self._picture() as picture:
            width, height = picture.size
            channels = 1 if picture.mode in _GREY_MODES else 3
        return upright_shape((height, width, channels), self.orientation)

    def read(self, *, stored: bool = False) -> tuple[np.ndarray, bool]:
        """The pixels [H, W, C], upright, and whether the last channel is opacity.

        Args:
          stored: True gives a palette's indices and the numbers of grey with 2 or 4 bits as they
            are stored, False the colours and the grey levels from 0 to 255 that they stand for.

        Raises:
          DataError: neither PNG nor JPEG, truncated, damaged, too large (Pillow's limit against
            decompression bombs), or of a kind that would lose bits.
        """
        if self._bits == 16 and self._colours != _GREY:
            # Pillow would silently return 8 bits of these.
            raise DataError(
                f"{self._path}: is a PNG with 16 bits in each of several channels, which would "
                "lose bits when read; expected 16-bit grey, or TIFF for 16-bit colour"
            )
        with self._as_data_errors(), self._picture() as picture:
            picture.load()
            array, opacity = self._pixels(picture, stored)
        return upright(array, self.orientation), opacity

    def palette(self) -> np.ndarray | None:
        """Colours of a palette, uint8 [N, 3]; None if there is none."""
        if self._colours != _PALETTE:
            return None
        whole = len(self._palette) // 3 * 3
        return np.frombuffer(self._palette[:whole], np.uint8).reshape(-1, 3)

    def _picture(self) -> Image.Image:
        return Image.open(io.BytesIO(self._data), formats=("PNG", "JPEG"))

    @contextmanager
    def _as_data_errors(self) -> Iterator[None]:
        """Every error that Pillow has, as a DataError."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                yield
        except DataError:
            raise
        except Image.DecompressionBombError as error:
            limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
            raise DataError(
                f"{self._path}: too large ({error}); expected at most {limit:,} pixels, which "
                "guards against decompression bombs: save it as TIFF, or cut it up"
            ) from error
        except Image.UnidentifiedImageError as error:
            raise DataError(f"{self._path}: is not a PNG, JPEG or TIFF file") from error
        except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError, struct.error
            raise DataError(f"{self._path}: truncated or damaged: {error}") from error

    def _pixels(self, picture: Image.Image, stored: bool) -> tuple[np.ndarray, bool]:
        """[H, W, C] of a loaded picture, not turned, and whether its last channel is opacity."""
        if picture.mode == "CMYK":
            inks = np.asarray(picture)  # Pillow takes all inks for Adobe's
            return from_cmyk(inks if self._inverted else 255 - inks), False
        if picture.mode == "P" and not stored:
            picture = picture.convert("RGBA" if "transparency" in picture.info else "RGB")
        array = np.asarray(picture)
        if array.dtype == bool:
            array = array.astype(np.uint8) * np.uint8(255)
        elif picture.mode == "I;16B":
            array = array.astype(np.uint16)
        elif stored and self._colours == _GREY and self._bits in (2, 4):
            array = array // (255 // (2**self._bits - 1))  # undoes what Pillow spreads
        return np.atleast_3d(array), picture.mode in ("LA", "RGBA")

    def _bare_png(self, data: bytes) -> bytes:
        """The file without the chunks that pixels don't come from."""
        kept, at = [_PNG], len(_PNG)
        while at < len(data):
            length, name = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
            body = data[at + 8 : at + 8 + length]
            if name == b"IHDR" and len(body) >= 10:
                self._bits, self._colours = body[8], body[9]
            elif name == b"PLTE":
                self._palette = body
            elif name == b"eXIf" and self.orientation == UPRIGHT:
                self.orientation = _stated(body)
            if name in _PIXELS:
                kept.append(data[at : at + 12 + length])
            at += 12 + length
            if name == b"IEND":
                break
        return b"".join(kept)

    def _bare_jpeg(self, data: bytes) -> bytes:
        """The file without comments and what applications add to it, its colours' kind apart."""
        kept, at, exif = [data[:2]], 2, False
        while at + 4 <= len(data) and data[at] == 0xFF:
            marker = data[at + 1]
            if marker == 0xFF:  # a marker may have any number of these before it
                at += 1
                continue
            if marker in (_SCAN, _END):
                break
            length = 2 + max(2, int.from_bytes(data[at + 2 : at + 4], "big"))
            segment = data[at : at + length]
            if marker in JPEG_FRAMES:
                self._refuse_frame(marker, segment)
            if marker == _APP1 and segment[4:10] == _EXIF and not exif:
                exif, self.orientation = True, _stated(segment[10:])
            self._inverted |= marker == _ADOBE and segment[4:9] == b"Adobe"
            if (not _APP1 <= marker <= _LAST_APP and marker != _COMMENT) or marker == _ADOBE:
                kept.append(segment)
            at += length
        return b"".join([*kept, data[at:]])

    def _refuse_frame(self, marker: int, segment: bytes) -> None:
        bits, count = (segment[4], segment[9]) if len(segment) > 9 else (8, 1)
        if marker not in JPEG_READABLE or bits != 8 or count not in JPEG_COMPONENTS:
            raise DataError(
                f"{self._path}: is a JPEG of {bits} bits and {count} components, kind "
                f"SOF{marker - 0xC0}; expected {JPEG_EXPECTED}: save it as PNG or TIFF"
            )


def _stated(exif: bytes) -> int:
    """The orientation that EXIF states; what cannot be read is upright."""
    entries = Image.Exif()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            entries.load(_EXIF + exif)
            return stated_orientation(entries.get(_ORIENTATION))
    except Exception:  # SyntaxError, struct.error, ValueError …
        return UPRIGHT
