"""TIFF files by the page: stacks, planar and interleaved colour, palettes, odd compressions."""

from __future__ import annotations

import logging
import threading
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
import tifffile
from PIL import Image

from keras_unet.errors import DataError

MOST_CHANNELS = 6  # a lone axis C longer than this is a stack that was saved without saying so
SAFE_BYTES = 1 << 30  # a page up to this size is read whatever the file's size is
MOST_EXPANSION = 2000  # beyond that, a page may be so many times larger than its file


class Slot(NamedTuple):
    """Where one image [H, W, C] lies: planes of a series, to be joined along the channels."""

    series: int
    planes: tuple[int, ...]


class TiffStack(AbstractContextManager["TiffStack"]):
    """An open TIFF file seen as a sequence of images [H, W, C].

    Axes Y and X are the image; S (samples, interleaved or planar) and C (channels) become the
    last axis; every other axis (Z, T, plain pages) counts pages, in stored order. C alone with
    more than six entries counts pages too: stacks are often saved so by mistake.

    Args:
      path: the file.
      channels: how many are expected: C alone with just as many entries is channels after all.

    Attributes:
      file: the open file.
      slots: where each image lies in it.
      axes: what the pages are counted by, outermost first, as (("T", 3), ("Z", 10)); empty for a
        single image, ("Z", n) where the file leaves open what its pages are.

    Raises:
      DataError: not a TIFF file, or cut off.
    """

    file: tifffile.TiffFile
    slots: tuple[Slot, ...]
    axes: tuple[tuple[str, int], ...]

    def __init__(self, path: str | Path, channels: int | None = None) -> None:
        self.path = Path(path)
        self._channels = channels
        with _Complaints() as complaints:
            try:
                self.file = tifffile.TiffFile(self.path)
            except Exception as error:  # tifffile raises struct.error, KeyError, … on broken files
                raise DataError(
                    f"{self.path}: cannot be read as TIFF ({error}); the file is damaged"
                ) from error
            try:
                self.slots = self._arrange()
            except DataError:
                self.close()
                raise
            except Exception as error:
                self.close()
                raise DataError(f"{self.path}: damaged TIFF file ({error})") from error
        if complaints.cut_off:
            self.close()
            raise DataError(f"{self.path}: truncated: it names a page that lies beyond its end")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self.file.close()

    def __len__(self) -> int:
        return len(self.slots)

    @property
    def lossy(self) -> bool:
        """Whether the first page is compressed by JPEG, which changes label values."""
        return "JPEG" in _compression(self.file.pages.first)

    @property
    def alpha(self) -> bool:
        """Whether the last sample of a pixel is its opacity rather than a measured value."""
        extra = self.file.pages.first.extrasamples
        return len(extra) == 1 and extra[0] in (
            tifffile.EXTRASAMPLE.ASSOCALPHA,
            tifffile.EXTRASAMPLE.UNASSALPHA,
        )

    def read(self, page: int, *, palette: bool = True) -> np.ndarray:
        """Page `page` as [H, W, C] in its stored dtype (one bit becomes 0 and 255).

        Args:
          page: 0 to len(self) - 1.
          palette: True gives a palette's colours (uint8, C = 3), False its indices (C = 1).
        """
        with _Complaints() as complaints:
            try:
                array = self._read(self.slots[page], palette)
            except DataError:
                raise
            except Exception as error:  # tags that contradict each other: any kind of error
                raise DataError(f"{self.path}: damaged TIFF file ({error})") from error
        if complaints.short:
            raise DataError(f"{self.path}: truncated or damaged: it lacks parts of page {page}")
        return array

    def _read(self, slot: Slot, palette: bool) -> np.ndarray:
        series = self.file.series[slot.series]
        if len(series.pages) > max(slot.planes):
            planes = [self._plane(series.pages[k], palette) for k in slot.planes]
        else:  # one entry in the file stands for many planes (ImageJ beyond 4 GB)
            self.guard(series.size * series.dtype.itemsize)
            shape = (-1, *series.keyframe.shape)
            whole = self._decode(series, series.keyframe).reshape(shape)
            planes = [self.tidy(whole[k], series.keyframe, palette) for k in slot.planes]
        return planes[0] if len(planes) == 1 else np.concatenate(planes, axis=-1)

    def _arrange(self) -> tuple[Slot, ...]:
        """Which planes make up each image."""
        kinds = self.file.series
        # Pages of unequal size, or written one by one, are several series: all are pages unless
        # the format says more.
        chosen = (
            range(len(kinds)) if kinds[0].kind in ("generic", "uniform", "shaped") else range(1)
        )
        slots: list[Slot] = []
        for number in chosen:
            series = kinds[number]
            outer = [
                (axis, length)
                for axis, length in zip(series.axes, series.shape, strict=True)
                if axis not in "YXS"
            ]
            if "Y" not in series.axes or "X" not in series.axes:
                raise DataError(f"{self.path}: has axes {series.axes}; expected Y and X among them")
            shape = tuple(length for _, length in outer)
            order = np.arange(int(np.prod(shape, dtype=np.int64))).reshape(shape)
            at = "".join(axis for axis, _ in outer).find("C")
            if at >= 0 and (
                len(outer) > 1 or shape[at] <= MOST_CHANNELS or shape[at] == self._channels
            ):
                del outer[at]
                order = np.moveaxis(order, at, -1)
                slots += [Slot(number, tuple(row)) for row in order.reshape(-1, shape[at]).tolist()]
            else:
                slots += [Slot(number, (k,)) for k in order.ravel().tolist()]
        told = len(chosen) == 1 and {axis for axis, _ in outer} <= {"T", "Z"}
        self.axes = tuple(outer) if told else (("Z", len(slots)),) if len(slots) > 1 else ()
        return tuple(slots)

    def _plane(self, page: Any, palette: bool) -> np.ndarray:
        keyframe = page.keyframe
        self.guard(keyframe.nbytes)
        return self.tidy(self._decode(page, keyframe), keyframe, palette)

    def guard(self, nbytes: int) -> None:
        """Refuses a header that claims far more pixels than the file can hold."""
        size = self.path.stat().st_size
        if nbytes > SAFE_BYTES and nbytes > MOST_EXPANSION * size:
            raise DataError(
                f"{self.path}: claims a page of {nbytes / 2**30:.1f} GiB in a file of {size} "
                f"bytes; expected at most {MOST_EXPANSION} times the size: it is damaged or a "
                "decompression bomb"
            )

    def _decode(self, source: Any, keyframe: tifffile.TiffPage) -> np.ndarray:
        try:
            return source.asarray(maxworkers=1)
        except Exception as error:
            if lacks_codec(error):
                return self._by_pillow(source, keyframe)
            raise DataError(
                f"{self.path}: truncated or damaged: its pixels cannot be read ({error})"
            ) from error

    def _by_pillow(self, page: Any, keyframe: tifffile.TiffPage) -> np.ndarray:
        """LZW and the like, which tifffile leaves to a package that isn't required here."""
        index = getattr(page, "index", 0)
        reason = ""
        try:
            with Image.open(self.path, formats=("TIFF",)) as image:
                image.seek(int(index))
                array = np.asarray(image)
        except Exception as error:
            array, reason = np.zeros(0), f" ({error})"
        # Pillow reads some kinds (16-bit colour) with fewer bits: take only what came whole.
        if (
            array.shape != keyframe.shape
            or array.dtype.itemsize != np.dtype(keyframe.dtype).itemsize
        ):
            raise DataError(
                f"{self.path}: cannot decode its {_compression(keyframe)} compression{reason}; "
                "expected an uncompressed or deflate-compressed TIFF: save it so, or install "
                "the package imagecodecs"
            )
        return array.astype(keyframe.dtype, copy=False)

    def tidy(self, array: np.ndarray, keyframe: tifffile.TiffPage, palette: bool) -> np.ndarray:
        """What tifffile decodes of a page, or a window of it, as [H, W, C]."""
        axes = keyframe.axes.replace("S", "") if array.ndim == 2 else keyframe.axes
        array = array.reshape(
            [n for n, axis in zip(array.shape, axes, strict=True) if axis in "YXS"]
        )
        array = np.moveaxis(array, 0, -1) if array.ndim == 3 and axes[0] == "S" else array
        if array.dtype == bool:
            white_is_zero = keyframe.photometric == tifffile.PHOTOMETRIC.MINISWHITE
            array = np.where(array != white_is_zero, np.uint8(255), np.uint8(0))
        colours = keyframe.colormap
        if keyframe.photometric == tifffile.PHOTOMETRIC.PALETTE and palette and colours is not None:
            array = (colours[:, array] >> 8).astype(np.uint8).transpose(1, 2, 0)
        return np.atleast_3d(array)


def lacks_codec(error: Exception) -> bool:
    """Whether decoding failed for want of the package imagecodecs."""
    # the second is how tifffile of 2025 and earlier says it
    return "imagecodecs" in str(error) or "not supported" in str(error)


def _compression(page: tifffile.TiffPage) -> str:
    code = page.compression
    return getattr(code, "name", str(code))  # a number that tifffile has no name for stays an int


class _Complaints(logging.Handler):
    """Listens while tifffile works: it only logs that a file is cut off, and goes on.

    What other threads read at the same time is no concern of it.
    """

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._thread = threading.get_ident()
        self.cut_off = self.short = False

    def emit(self, record: logging.LogRecord) -> None:
        if record.thread != self._thread:
            return
        text = record.getMessage()
        self.cut_off |= "invalid page offset" in text or "invalid offset to page" in text
        self.short |= "read_segments: expected" in text

    def __enter__(self) -> _Complaints:
        logging.getLogger("tifffile").addHandler(self)
        return self

    def __exit__(self, *unused: object) -> None:
        logging.getLogger("tifffile").removeHandler(self)
