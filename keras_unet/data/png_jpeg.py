"""PNG and JPEG files as arrays: their pixels and their orientation; other metadata is passed over.

Profiles and texts, of whatever size, damaged or not, have no say in the pixels. The serving graph
reads the same files to the same pixels, see `encoded`. Sources: PNG third edition, sections 5 and
11; ITU-T T.81, annex B; CIPA DC-008 (Exif 2.32).
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from keras_unet.data.jpeg_markers import COMPONENTS, EXPECTED, FRAMES, READABLE
from keras_unet.data.photometric import from_cmyk
from keras_unet.data.upright import UPRIGHT, stated, upright, upright_shape
from keras_unet.errors import DataError

_PNG = b"\x89PNG\r\n\x1a\n"
_PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")  # chunks that pixels come from
_GREY, _PALETTE = 0, 3  # colour types
_EXIF, _ORIENTATION = b"Exif\0\0", 0x0112
_START, _SCAN, _END = 0xD8, 0xDA, 0xD9  # markers; the pixels come after a scan's
_APP1, _ADOBE, _LAST_APP, _COMMENT = 0xE1, 0xEE, 0xEF, 0xFE


class Picture:
    """A PNG or JPEG file whose header has been read.

    Args:
      path: the file, for messages alone if its content is given.
      data: its content.

    Attributes:
      lossy: whether it is a JPEG, which changes label values.
      orientation: 1 to 8, as EXIF states it; see `upright`.

    Raises:
      DataError: cannot be opened, or a kind of JPEG that few programs read.
    """

    lossy: bool
    orientation: int

    def __init__(self, path: Path, data: bytes | None = None) -> None:
        self._path = path
        self.orientation, self._palette = UPRIGHT, b""
        self._bits, self._colours = 8, _GREY
        self._inverted = False  # inks, as Adobe writes them
        try:
            content = path.read_bytes() if data is None else data
        except OSError as error:
            raise DataError(f"{path}: cannot be opened ({error.strerror or error})") from error
        self.lossy = content[:2] == b"\xff\xd8"
        if self.lossy:
            self._data = self._bare_jpeg(content)
        else:
            self._data = self._bare_png(content) if content[:8] == _PNG else content

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) as displayed.

        Raises:
          DataError: neither PNG nor JPEG, damaged, or too large.
        """
        with self._telling(), self._picture() as picture:
            width, height = picture.size
        return upright_shape((height, width, 1), self.orientation)[:2]

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
            # Pillow would return 8 bits of these without a word.
            raise DataError(
                f"{self._path}: is a PNG with 16 bits in each of several channels, which would "
                "lose bits when read; expected 16-bit grey, or TIFF for 16-bit colour"
            )
        with self._telling(), self._picture() as picture:
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
    def _telling(self) -> Iterator[None]:
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
            if marker in FRAMES:
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
        if marker not in READABLE or bits != 8 or count not in COMPONENTS:
            raise DataError(
                f"{self._path}: is a JPEG of {bits} bits and {count} components, kind "
                f"SOF{marker - 0xC0}; expected {EXPECTED}: save it as PNG or TIFF"
            )


def _stated(exif: bytes) -> int:
    """The orientation that EXIF states; what cannot be read is upright."""
    entries = Image.Exif()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            entries.load(_EXIF + exif)
            return stated(entries.get(_ORIENTATION))
    except Exception:  # SyntaxError, struct.error, ValueError …
        return UPRIGHT
