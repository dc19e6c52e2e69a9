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

from keras_unet.data.photometric import has_opacity, numbers, refuse_unknown, shown
from keras_unet.data.upright import of_page, upright
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
        # a number that tifffile has no name for stays an int
        return "JPEG" in getattr(self.file.pages.first.compression, "name", "")

    def opacity(self, slot: Slot) -> bool:
        """Whether the last channel of an image is its opacity rather than a measured value."""
        return len(slot.planes) == 1 and has_opacity(self.keyframes(slot)[0])

    def read(self, number: int, *, stored: bool = False) -> np.ndarray:
        """Image `number` as [H, W, C], upright; opacity is its last channel if there is any.

        Args:
          number: 0 to len(self) - 1.
          stored: False gives what the samples stand for (see `photometric.shown`), True the
            numbers that are stored (`photometric.numbers`), a palette's indices among them.
        """
        with _Complaints() as complaints:
            try:
                array = self._read(self.slots[number], stored)
            except DataError:
                raise
            except Exception as error:  # tags that contradict each other: any kind of error
                raise DataError(f"{self.path}: damaged TIFF file ({error})") from error
        if complaints.short:
            raise DataError(f"{self.path}: truncated or damaged: it lacks parts of page {number}")
        return array

    def pages(self, slot: Slot) -> list[Any]:
        """What holds each plane: tifffile's page, its `keyframe` with the tags of this very page.

        Empty where one entry in the file stands for many planes (ImageJ beyond 4 GB).
        """
        pages: Any = self.file.series[slot.series].pages
        if len(pages) <= max(slot.planes):
            return []
        planes = [pages[k] for k in slot.planes]
        return [page if page.is_virtual else page.aspage() for page in planes]

    def keyframes(self, slot: Slot) -> list[tifffile.TiffPage]:
        """The tags of each plane; those of the only entry if it stands for all.

        Raises:
          DataError: of colours that aren't known, or planes of one image turned differently.
        """
        found = [page.keyframe for page in self.pages(slot)]
        found = found or [self.file.series[slot.series].keyframe]
        for keyframe in found:
            refuse_unknown(self.path, keyframe)
        if len(turned := {of_page(keyframe) for keyframe in found}) > 1:
            raise DataError(
                f"{self.path}: channels of one image have the orientations {sorted(turned)}; "
                "expected one"
            )
        return found

    def _read(self, slot: Slot, stored: bool) -> np.ndarray:
        keyframes = self.keyframes(slot)
        pages = self.pages(slot)
        if pages:
            for keyframe in keyframes:
                self.guard(keyframe.nbytes)
            planes = [self.tidy(self._decode(page), page.keyframe, stored) for page in pages]
        else:
            series = self.file.series[slot.series]
            self.guard(series.size * series.dtype.itemsize)
            whole = self._decode(series).reshape(-1, *series.keyframe.shape)
            planes = [self.tidy(whole[k], series.keyframe, stored) for k in slot.planes]
        array = planes[0] if len(planes) == 1 else np.concatenate(planes, axis=-1)
        return upright(array, of_page(keyframes[0]))

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

    def guard(self, nbytes: int) -> None:
        """Refuses a header that claims far more pixels than the file can hold."""
        size = self.path.stat().st_size
        if nbytes > SAFE_BYTES and nbytes > MOST_EXPANSION * size:
            raise DataError(
                f"{self.path}: claims a page of {nbytes / 2**30:.1f} GiB in a file of {size} "
                f"bytes; expected at most {MOST_EXPANSION} times the size: it is damaged or a "
                "decompression bomb"
            )

    def _decode(self, source: Any) -> np.ndarray:
        try:
            return source.asarray(maxworkers=1)
        except Exception as error:
            raise DataError(
                f"{self.path}: truncated or damaged: its pixels cannot be read ({error})"
            ) from error

    def tidy(self, array: np.ndarray, page: tifffile.TiffPage, stored: bool) -> np.ndarray:
        """What tifffile decodes of a page, or a window of it, as [H, W, C], not turned."""
        axes = page.axes.replace("S", "") if array.ndim == 2 else page.axes
        array = array.reshape(
            [n for n, axis in zip(array.shape, axes, strict=True) if axis in "YXS"]
        )
        array = np.moveaxis(array, 0, -1) if array.ndim == 3 and axes[0] == "S" else array
        return (numbers if stored else shown)(np.atleast_3d(array), page)


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
