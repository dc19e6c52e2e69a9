"""TIFF files window by window: only the strips or tiles that a window needs are decoded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple
from xml.etree import ElementTree

import numpy as np
import tifffile

from keras_unet.data import tiff
from keras_unet.data.photometric import JPEG, shown
from keras_unet.data.stored_pixels import (
    UPRIGHT,
    PixelSize,
    WindowedFile,
    WindowedImage,
    in_micrometres,
    page_orientation,
    pixel_size,
    upright_shape,
)
from keras_unet.data.tiff import Slot, TiffStack, undecoded
from keras_unet.errors import DataError

_ROWS_BYTES = 1 << 22  # of an uncompressed plane, so much is read at a time
Load = Callable[[int, int], np.ndarray]


class TiffWindows(WindowedFile):
    """A TIFF file as a sequence of windowed images; what counts as one is `TiffStack`'s rule.

    Decoded whole are images compressed as a single strip, or by CCITT, and those stored in strips
    whose Orientation exchanges rows and columns: each window then touches all strips.

    Args:
        path: the file.
        channels: how many the model expects, see `TiffStack`. file: see there.

    Raises:
        DataError: as `TiffStack`.
    """

    def __init__(
        self, path: Path, channels: int | None = None, file: BinaryIO | None = None
    ) -> None:
        self.path = path
        self.stack = TiffStack(path, channels, file)
        try:
            self.axes, self.left_out = self.stack.axes, self.stack.left_out
            self.pixel_size = tiff_pixel_size(self.stack.file)
            self._forms = [self._form(slot) for slot in self.stack.slots]
        except Exception as error:  # tags that contradict each other: any kind of error
            self.close()
            raise DataError(f"{path}: damaged TIFF file ({error})") from error
        self.shapes = [upright_shape(form.shape, form.orientation) for form in self._forms]

    def close(self) -> None:
        self.stack.close()

    def page(self, number: int) -> WindowedImage:
        slot, form = self.stack.slots[number], self._forms[number]
        try:
            block, load = self._blocks(slot)
        except DataError:
            raise
        except Exception as error:
            raise DataError(f"{self.path}: damaged TIFF file ({error})") from error
        if load is None:  # read whole, it comes upright
            load = lambda i, j: self.stack.read(number)  # noqa: E731
            form = form._replace(
                shape=upright_shape(form.shape, form.orientation), orientation=UPRIGHT
            )
            block = form.shape[:2]
        return WindowedImage(
            self.path,
            form.shape,
            form.dtype,
            block,
            load,
            opacity=form.opacity,
            orientation=form.orientation,
            nodata=self.stack.nodata(slot),
            mask=self._mask(slot),
        )

    def _mask(self, slot: Slot) -> WindowedImage | None:
        """The transparency mask, a byte a pixel; read whole, since it is of bits mostly."""
        page = self.stack.mask(slot)
        if page is None:
            return None
        size = (page.imagelength, page.imagewidth)
        pixels: list[np.ndarray] = []

        def load(i: int, j: int) -> np.ndarray:
            if not pixels:
                mask = self.stack.decode(page).reshape(*size, 1)
                pixels.append((mask != 0).astype(np.uint8))
            return pixels[0]

        turned = page_orientation(self.stack.keyframes(slot)[0])
        return WindowedImage(
            self.path, (*size, 1), np.dtype(np.uint8), size, load, orientation=turned
        )

    def _form(self, slot: Slot) -> _Form:
        keyframes = self.stack.keyframes(slot)
        first = keyframes[0]
        pixel = np.zeros((1, 1, first.samplesperpixel), first.dtype)
        pixel = np.concatenate([shown(pixel, keyframe) for keyframe in keyframes], axis=-1)
        channels = pixel.shape[2] * (len(slot.planes) // len(keyframes))
        opacity = channels in (2, 4) and self.stack.opacity(slot)
        shape = (first.imagelength, first.imagewidth, channels - opacity)
        return _Form(shape, pixel.dtype, opacity, page_orientation(first))

    def _blocks(self, slot: Slot) -> tuple[tuple[int, int], Load | None]:
        """Size and loader of the blocks, as stored; no loader if the image can't be cut."""
        pages, keyframe = self.stack.pages(slot), self.stack.keyframes(slot)[0]
        height, width = keyframe.imagelength, keyframe.imagewidth
        if keyframe.imagedepth > 1 or keyframe.compression in tiff.FAX_COMPRESSIONS:
            return (height, width), None
        plane = height * width * keyframe.samplesperpixel * np.dtype(keyframe.dtype).itemsize
        if pages:
            found = [_offset(page) for page in pages]
            offsets = [offset for offset in found if offset is not None]
        elif (start := self.stack.series[slot.series].dataoffset) is not None:
            offsets = [start + k * plane for k in slot.planes]
        else:
            return (height, width), None
        if len(offsets) == len(slot.planes):
            rows = max(1, _ROWS_BYTES // max(1, plane // height))
            return (rows, width), _Rows(self.stack, keyframe, offsets, rows)
        if keyframe.is_tiled:
            block = (keyframe.tilelength, keyframe.tilewidth)
        else:
            block = (min(keyframe.rowsperstrip, height), width)
        return block, _Segments(self.stack, pages, block)


class _Form(NamedTuple):
    """Of one image: shape [H, W, C] as stored, without opacity; dtype and opacity once read."""

    shape: tuple[int, int, int]
    dtype: np.dtype
    opacity: bool
    orientation: int


class _Segments:
    """Loads strips or tiles of an image: the same one of every plane, joined along channels."""

    def __init__(self, stack: TiffStack, pages: list[Any], block: tuple[int, int]) -> None:
        self._stack, self._pages, self._block = stack, pages, block

    def __call__(self, i: int, j: int) -> np.ndarray:
        planes = [self._plane(page, i, j) for page in self._pages]
        return planes[0] if len(planes) == 1 else np.concatenate(planes, axis=-1)

    def _plane(self, page: Any, i: int, j: int) -> np.ndarray:
        keyframe = page.keyframe
        down = -(-keyframe.imagelength // self._block[0])
        across = -(-keyframe.imagewidth // self._block[1])
        separate = keyframe.axes.startswith("S")
        height = min(self._block[0], keyframe.imagelength - i * self._block[0])
        width = min(self._block[1], keyframe.imagewidth - j * self._block[1])
        samples = [
            self._segment(page, (sample * down + i) * across + j)[:height, :width]
            for sample in range(keyframe.samplesperpixel if separate else 1)
        ]
        raw = np.stack([sample[..., 0] for sample in samples]) if separate else samples[0]
        return _tidied(self._stack, raw, keyframe)

    def _segment(self, page: Any, index: int) -> np.ndarray:
        """One decoded strip or tile, [h, w, S]."""
        keyframe = page.keyframe
        tables = {}
        if keyframe.compression in JPEG:
            tables = {"jpegtables": page.jpegtables, "jpegheader": keyframe.jpegheader}
        count = page.databytecounts[index]
        data = _bytes(self._stack, page.dataoffsets[index], count) if count else None
        try:
            decoded, _, shape = keyframe.decode(data, index, **tables)
        except Exception as error:  # any kind, by the codec
            raise undecoded(self._stack.path, keyframe, error) from error
        if decoded is None:  # sparse: a segment that was never written
            return np.full(shape[1:], keyframe.nodata, keyframe.dtype)
        return decoded[0]


class _Rows:
    """Loads rows of an image that lies in the file as it is, uncompressed."""

    def __init__(
        self, stack: TiffStack, keyframe: tifffile.TiffPage, offsets: list[int], rows: int
    ) -> None:
        self._stack, self._keyframe, self._offsets, self._rows = stack, keyframe, offsets, rows

    def __call__(self, i: int, j: int) -> np.ndarray:
        planes = [self._plane(offset, i) for offset in self._offsets]
        return planes[0] if len(planes) == 1 else np.concatenate(planes, axis=-1)

    def _plane(self, offset: int, i: int) -> np.ndarray:
        keyframe = self._keyframe
        height = min(self._rows, keyframe.imagelength - i * self._rows)
        separate = keyframe.axes.startswith("S")
        samples = keyframe.samplesperpixel
        row = (keyframe.imagewidth,) if separate else (keyframe.imagewidth, samples)
        stored = np.dtype(keyframe.dtype).newbyteorder(self._stack.file.byteorder)
        length = int(np.prod(row)) * stored.itemsize
        parts = [
            np.frombuffer(_bytes(self._stack, start, height * length), stored)
            for start in (
                offset + (sample * keyframe.imagelength + i * self._rows) * length
                for sample in range(samples if separate else 1)
            )
        ]
        shaped = [part.reshape(height, *row) for part in parts]
        return _tidied(self._stack, np.stack(shaped) if separate else shaped[0], keyframe)


def _tidied(stack: TiffStack, raw: np.ndarray, keyframe: tifffile.TiffPage) -> np.ndarray:
    if "S" not in keyframe.axes:
        raw = raw[..., 0]
    return stack.tidy(raw.astype(keyframe.dtype, copy=False), keyframe, stored=False)


def _offset(page: Any) -> int | None:
    """Where the pixels of a page begin if they lie there row after row, as they are."""
    keyframe = page.keyframe
    plain = (
        keyframe.compression == 1
        and keyframe.predictor == 1
        and keyframe.fillorder == 1
        and keyframe.bitspersample in (8, 16, 32, 64)
        and not keyframe.is_tiled
        and not keyframe.is_subsampled
    )
    if not plain:
        return None
    ends = np.add(page.dataoffsets, page.databytecounts)
    return page.dataoffsets[0] if np.array_equal(ends[:-1], page.dataoffsets[1:]) else None


def _bytes(stack: TiffStack, offset: int, count: int) -> bytes:
    stack.guard(count)
    with stack.file.filehandle.lock:
        stack.file.filehandle.seek(offset)
        data = stack.file.filehandle.read(count)
    if len(data) != count:
        raise DataError(
            f"{stack.path}: truncated: {count} bytes of pixels are missing at byte {offset}"
        )
    return data


def read_pixel_size(path: str | Path) -> PixelSize | None:
    """The pixel size that an OME-TIFF or ImageJ TIFF states; None if it states none.

    Height and width are those of the image as displayed (Orientation).
    Plain TIFF resolutions are not taken: most writers put a printer's 72 or 96 dots an inch there.
    Files of other kinds, and damaged ones, give None: reading their pixels raises the error.
    """
    try:
        with tifffile.TiffFile(path) as file:
            return readable_pixel_size(file)
    except Exception:  # tifffile raises struct.error, KeyError, … on broken files
        return None


def readable_pixel_size(file: tifffile.TiffFile) -> PixelSize | None:
    """As `read_pixel_size`, for an open file."""
    try:
        return tiff_pixel_size(file)
    except Exception:  # likewise
        return None


def tiff_pixel_size(file: tifffile.TiffFile) -> PixelSize | None:
    """As `readable_pixel_size`; of tags that contradict each other, any kind of error."""
    size = _as_stored(file)
    if size is None or page_orientation(file.pages.first) < 5:
        return size
    return PixelSize(height=size.width, width=size.height, depth=size.depth)


def _as_stored(file: tifffile.TiffFile) -> PixelSize | None:
    if file.is_ome and file.ome_metadata:
        return _of_ome(file.ome_metadata)
    if file.is_imagej:
        return _of_imagej(file)
    if file.is_shaped and file.shaped_metadata:  # tifffile's own, where OME knows no float16
        return _of_attributes(file.shaped_metadata[0])
    return None


def _of_ome(xml: str) -> PixelSize | None:
    """From the first image's `Pixels`; a unit left out is µm (OME schema 2016-06)."""
    try:
        root = ElementTree.fromstring(xml)
    except ElementTree.ParseError:
        return None
    pixels = next((node for node in root.iter() if node.tag.endswith("}Pixels")), None)
    return None if pixels is None else _of_attributes(pixels.attrib)


def _of_attributes(found: Mapping[str, Any]) -> PixelSize | None:
    sizes = [
        in_micrometres(found.get(f"PhysicalSize{axis}"), found.get(f"PhysicalSize{axis}Unit", "µm"))
        for axis in "YXZ"
    ]
    return pixel_size(*sizes)


def _of_imagej(file: tifffile.TiffFile) -> PixelSize | None:
    """ImageJ writes pixels a unit into the resolution tags, and the unit into its description."""
    stated = file.imagej_metadata or {}
    tags = file.pages.first.tags
    unit = stated.get("unit")

    def size(name: str) -> float | None:
        numerator, denominator = tags.valueof(name, (0, 1))
        return in_micrometres(denominator / numerator if numerator else None, unit)

    height, width = size("YResolution"), size("XResolution")
    return pixel_size(height, width, in_micrometres(stated.get("spacing"), unit))
