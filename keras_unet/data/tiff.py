"""TIFF files by the page: stacks, planar and interleaved colour, palettes, odd compressions.

Also files of an OME-TIFF set, whose OME-XML names the file of each plane (OME-TIFF specification,
"Distributing an OME-TIFF data set across multiple files"), and CCITT compression for Python 3.10,
whose tifffile knows none.
"""

from __future__ import annotations

import io
import logging
import struct
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple
from xml.etree import ElementTree

import numpy as np
import tifffile
from PIL import Image

from keras_unet.data.photometric import (
    has_opacity,
    is_palette,
    numbers,
    palette,
    refuse_unknown,
    shown,
)
from keras_unet.data.stored_pixels import (
    MOST_CHANNELS,
    missing_pixels,
    nodata_value,
    page_orientation,
    upright,
)
from keras_unet.errors import DataError

# of tifffile's names for what slide scanners store, those of pictures beside the scan
_SLIDES = ("svs", "ndpi", "scn", "bif", "philips", "qpi", "avs")
_BESIDE = ("thumbnail", "label", "macro", "map", "overview")
_PLAIN = ("generic", "uniform", "shaped", "imagej", "ome")  # series of pages as they are
_KINDS = {0b000: "", 0b001: "reduced image", 0b100: "mask", 0b101: "mask"}  # NewSubfileType
_GDAL_NODATA = 42113
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
    more than six entries counts pages too: stacks are often saved so by mistake. Several images in
    one file (positions, macro and scan) are pages, one after the other, of whatever sizes. A file
    of a set (OME-TIFF, Micro-Manager, NDTiff) is its own planes; the other files are not read.

    Args:
      path: the file.
      channels: how many are expected: C alone with just as many entries is channels after all.
      file: the file if it is open, at its start; closed with this.

    Attributes:
      file: the open file.
      slots: where each image lies in it.
      axes: what the pages are counted by, outermost first, as (("T", 3), ("Z", 10)); empty for a
        single image, ("Z", n) where the file leaves open what its pages are.
      left_out: what is in the file and no image of its own, as "reduced image 24x24".
      series: tifffile's, which the slots count.

    Raises:
      DataError: not a TIFF file, or cut off.
    """

    file: tifffile.TiffFile
    slots: tuple[Slot, ...]
    axes: tuple[tuple[str, int], ...]
    left_out: tuple[str, ...] = ()
    series: list[Any]
    _masks: tuple[Any, ...] = ()

    def __init__(
        self, path: str | Path, channels: int | None = None, file: BinaryIO | None = None
    ) -> None:
        self.path = Path(path)
        self._channels = channels
        with _Complaints() as complaints:
            try:
                file = self._handle = file or self.path.open("rb")
                self.file = _tiff_file(file)
            except Exception as error:  # tifffile raises struct.error, KeyError, … on broken files
                if file is not None:
                    file.close()
                raise DataError(
                    f"{self.path}: cannot be read as TIFF ({error}); the file is damaged"
                ) from error
            try:
                self.series = _every_series(self.file)
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

    def __exit__(self, *unused: object) -> None:
        self.close()

    def close(self) -> None:
        self.file.close()
        self._handle.close()

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

    def palette(self, number: int) -> np.ndarray | None:
        """The colours that the numbers of an image are shown in, see `photometric.palette`."""
        return palette(self.keyframes(self.slots[number])[0])

    def orientation(self, number: int) -> int:
        """How the stored pixels of an image are turned to be displayed, 1 to 8."""
        return page_orientation(self.keyframes(self.slots[number])[0])

    def inverted(self, number: int) -> bool:
        """Whether an image is of black and white with white stored as 0."""
        page = self.keyframes(self.slots[number])[0]
        return page.bitspersample == 1 and page.photometric == tifffile.PHOTOMETRIC.MINISWHITE

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
        series = self.series[slot.series]
        pages: Any = series.pages
        if len(pages) <= max(slot.planes):
            return []
        planes = [pages[k] for k in slot.planes]
        if series.kind not in _PLAIN:  # tifffile mends what these formats say of their pages
            return planes
        return [page if page.is_virtual else page.aspage() for page in planes]

    def keyframes(self, slot: Slot) -> list[tifffile.TiffPage]:
        """The tags of each plane; those of the only entry if it stands for all.

        Raises:
          DataError: of colours that aren't known, or planes of one image turned differently.
        """
        found = [page.keyframe for page in self.pages(slot)]
        found = found or [self.series[slot.series].keyframe]
        for keyframe in found:
            refuse_unknown(self.path, keyframe)
        if len(turned := {page_orientation(keyframe) for keyframe in found}) > 1:
            raise DataError(
                f"{self.path}: channels of one image have the orientations {sorted(turned)}; "
                "expected one"
            )
        return found

    def nodata(self, slot: Slot) -> float | None:
        """The value that stands for pixels never measured (GDAL_NODATA), as `read` shows it."""
        page = self.keyframes(slot)[0]
        value = nodata_value(page.tags.valueof(_GDAL_NODATA, ""))
        if value is None or np.isnan(value) or is_palette(page):
            return None
        if page.photometric == tifffile.PHOTOMETRIC.MINISWHITE or page.bitspersample < 8:
            shape = (1, 1, page.samplesperpixel)
            return float(shown(np.full(shape, value).astype(page.dtype), page)[0, 0, 0])
        return value

    def mask(self, slot: Slot) -> tifffile.TiffPage | None:
        """The transparency mask of an image, the next of its size in the file; 0 is no pixel."""
        image = self.keyframes(slot)[0]
        size = (image.imagelength, image.imagewidth)
        after = (
            page
            for page in self._masks
            if (page.imagelength, page.imagewidth) == size and page.index > image.index
        )
        return next(after, None)

    def missing(self, number: int, array: np.ndarray) -> np.ndarray | None:
        """Which pixels of image `number`, as `read` gives it, are none: see `missing_pixels`."""
        slot = self.slots[number]
        found = missing_pixels(array, self.nodata(slot))
        if (mask := self.mask(slot)) is not None:
            outside = self.decode(mask).reshape(mask.imagelength, mask.imagewidth) == 0
            outside = upright(outside, page_orientation(self.keyframes(slot)[0]))
            found = outside if found is None else found | outside
        return found if found is not None and found.any() else None

    def _read(self, slot: Slot, stored: bool) -> np.ndarray:
        keyframes = self.keyframes(slot)
        pages = self.pages(slot)
        if pages:
            for keyframe in keyframes:
                self.guard(keyframe.nbytes)
            planes = [self.tidy(self.decode(page), page.keyframe, stored) for page in pages]
        else:
            series = self.series[slot.series]
            self.guard(series.size * series.dtype.itemsize)
            whole = self.decode(series).reshape(-1, *series.keyframe.shape)
            planes = [self.tidy(whole[k], series.keyframe, stored) for k in slot.planes]
        array = planes[0] if len(planes) == 1 else np.concatenate(planes, axis=-1)
        return upright(array, page_orientation(keyframes[0]))

    def _arrange(self) -> tuple[Slot, ...]:
        """Which planes make up each image."""
        member = self.file.is_ome and self.series[0].kind == "generic"
        own = self._own_images() if member else None
        slots: list[Slot] = []
        outer: list[tuple[str, int]] = []
        count = 0  # of the series or images that are taken
        for number, series in enumerate(self.series) if own is None else ():
            if "Y" not in series.axes or "X" not in series.axes:
                raise DataError(f"{self.path}: has axes {series.axes}; expected Y and X among them")
            outer = [
                (axis, length)
                for axis, length in zip(series.axes, series.shape, strict=True)
                if axis not in "YXS"
            ]
            shape = [length for _, length in outer]
            order = np.arange(int(np.prod(shape, dtype=np.int64))).reshape(shape)
            if others := self._others(series):
                order = np.delete(order.ravel(), others if len(_heads(series)) > 1 else slice(None))
                outer = [("I", len(order))]
            if not order.size:
                continue
            slots += self._slots(number, outer, order)
            count += 1
        for number, outer, order in own or ():
            slots += self._slots(number, outer, order)
            count += 1
        if not slots:
            raise DataError(f"{self.path}: holds no image")
        if all(series.kind == "generic" for series in self.series) and own is None:
            slots.sort(key=self._place)  # a series is of pages alike, wherever they are
        named = count == 1 and {axis for axis, _ in outer} <= {"T", "Z"}
        self.axes = tuple(outer) if named else (("Z", len(slots)),) if len(slots) > 1 else ()
        return tuple(slots)

    def _place(self, slot: Slot) -> tuple[int, ...]:
        """Of a page in the file: its number, and of one within another page its number there."""
        pages: Any = self.series[slot.series].pages
        index = pages[slot.planes[0]].index
        return index if isinstance(index, tuple) else (index,)

    def _slots(self, series: int, outer: list[tuple[str, int]], order: np.ndarray) -> list[Slot]:
        """The images of planes `order`, counted by `outer`, from which channels are taken away.

        Planes that the metadata promise and the file lacks (an acquisition that was ended early) go
        to `left_out`.
        """
        pages: Any = self.series[series].pages
        found = there = self._images(series, outer, order)
        if self.series[series].kind == "ome":
            there = [slot for slot in found if all(pages[k] is not None for k in slot.planes)]
        if len(there) < len(found):
            self.left_out += (f"{len(found) - len(there)} images that it names and does not hold",)
            outer[:] = [("I", len(there))]
        return there

    def _images(self, series: int, outer: list[tuple[str, int]], order: np.ndarray) -> list[Slot]:
        at = "".join(axis for axis, _ in outer).find("C")
        if at < 0 or not (
            len(outer) > 1 or outer[at][1] <= MOST_CHANNELS or outer[at][1] == self._channels
        ):
            return [Slot(series, (k,)) for k in order.ravel().tolist()]
        _, channels = outer.pop(at)
        rows = np.moveaxis(order, at, -1).reshape(-1, channels)
        return [Slot(series, tuple(row)) for row in rows.tolist()]

    def _others(self, series: Any) -> list[int]:
        """The numbers of a series' pages that are no images of their own; named in `left_out`.

        They are reduced images and transparency masks (NewSubfileType, SubfileType), if anything
        else is in the file, and what slide scanners store beside the scan.
        """
        heads = _heads(series)
        what = [""] * len(heads)
        if series.kind in _SLIDES and series.name.casefold() in _BESIDE:
            what = [series.name.casefold()] * len(heads)
        elif any(not page.subfiletype & 0b101 for s in self.series for page in _heads(s)):
            what = [_KINDS[page.subfiletype & 0b101] for page in heads]
            self._masks += tuple(page for page in heads if page.subfiletype & 0b101 == 0b100)
        self.left_out += tuple(
            f"{kind} {page.imagelength}x{page.imagewidth}"
            for kind, page in zip(what, heads, strict=True)
            if kind
        )
        return [k for k, kind in enumerate(what) if kind]

    def _own_images(self) -> list[tuple[int, list[tuple[str, int]], np.ndarray]] | None:
        """Of a file of an OME-TIFF set: series, axes and planes of each image, its own alone."""
        places = {
            page.index: (number, k)
            for number, series in enumerate(self.series)
            for k, page in enumerate(series.pages)
        }
        found = []
        for planes in own_images(self.file.ome_metadata or "", self.path) or ():
            if not all(ifd in places for ifd in planes.values()):
                return None  # its metadata are wrong
            there = sorted(planes)
            along = [sorted({place[k] for place in there}) for k in range(len(OME_AXES))]
            shape = tuple(map(len, along))
            series = {places[planes[place]][0] for place in there}
            if len(series) > 1 or int(np.prod(shape)) != len(there):
                return None  # not a block of the set: each plane an image
            order = np.array([places[planes[place]][1] for place in there])
            outer = [(axis, n) for axis, n in zip(OME_AXES, shape, strict=True) if n > 1]
            found.append((series.pop(), outer, order.reshape([n for _, n in outer])))
        return found or None

    def guard(self, nbytes: int) -> None:
        """Refuses a header that claims far more pixels than the file can hold."""
        size = self.path.stat().st_size
        if nbytes > SAFE_BYTES and nbytes > MOST_EXPANSION * size:
            raise DataError(
                f"{self.path}: claims a page of {nbytes / 2**30:.1f} GiB in a file of {size} "
                f"bytes; expected at most {MOST_EXPANSION} times the size: it is damaged or a "
                "decompression bomb"
            )

    def decode(self, source: Any) -> np.ndarray:
        """What a page, or a series of them, holds, as tifffile gives it."""
        try:
            return source.asarray(maxworkers=1)
        except Exception as error:
            reason = error
        if source.keyframe.compression in FAX_COMPRESSIONS and "not supported" in str(reason):
            try:
                return decode_fax(source)
            except Exception as error:
                reason = error
        raise undecoded(self.path, source.keyframe, reason) from reason

    def tidy(self, array: np.ndarray, page: tifffile.TiffPage, stored: bool) -> np.ndarray:
        """What tifffile decodes of a page, or a window of it, as [H, W, C], not turned."""
        axes = page.axes.replace("S", "") if array.ndim == 2 else page.axes
        array = array.reshape(
            [n for n, axis in zip(array.shape, axes, strict=True) if axis in "YXS"]
        )
        array = np.moveaxis(array, 0, -1) if array.ndim == 3 and axes[0] == "S" else array
        return (numbers if stored else shown)(np.atleast_3d(array), page)


def undecoded(path: Path, page: tifffile.TiffPage, error: Exception) -> DataError:
    """What to raise where tifffile, which has an error of any kind, cannot decode a page."""
    reason, kind = str(error), page.compression
    if "not supported" in reason or "not a known" in reason or "requires the" in reason:
        return DataError(
            f"{path}: cannot decode its {getattr(kind, 'name', kind)} compression ({reason}); "
            "expected one that is in use, as deflate or LZW: save it so"
        )
    return DataError(f"{path}: truncated or damaged: its pixels cannot be read ({reason})")


def _tiff_file(handle: BinaryIO) -> tifffile.TiffFile:
    """The file by itself: where it is one of a set, tifffile would read the others' planes too."""
    file = tifffile.TiffFile(handle, _multifile=False)
    if any(series.is_multifile for series in file.series):  # sets of Micro-Manager and NDTiff
        handle.seek(0)
        file = tifffile.TiffFile(handle, _multifile=False, is_mmstack=False, is_ndtiff=False)
    return file


def _every_series(file: tifffile.TiffFile) -> list[Any]:
    """The series of a file, with what tifffile takes for levels of a pyramid by its size alone.

    Pages half as large as the first may be images all the same: levels are said to be reduced
    (NewSubfileType) or lie within the page they belong to (SubIFDs).
    """
    found: list[Any] = []
    for series in file.series:
        found.append(series)
        if series.kind == "generic":
            found += [level for level in series.levels[1:] if _stands_alone(level.keyframe)]
    return found


def _stands_alone(page: Any) -> bool:
    return not (page.is_reduced or page.is_subifd)


def _heads(series: Any) -> list[Any]:
    """The pages of a series whose tags may differ from its keyframe's, else the keyframe."""
    pages = list(series.pages) if series.kind == "generic" else []
    return pages if pages and all(hasattr(p, "subfiletype") for p in pages) else [series.keyframe]


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


OME_AXES = "TZC"
_Place = tuple[int, int, int]  # of a plane along T, Z and C in the whole set
_File = tuple[str, str]  # UUID and name


def own_images(xml: str, path: Path) -> list[dict[_Place, int]] | None:
    """What of an OME-TIFF set lies in the file `path`, whose OME-XML this is.

    None where the XML leaves it open: it is damaged, leaves everything to a companion that isn't
    there, or knows no file by this UUID or name. A renamed file whose XML names one file only is
    that file.

    Returns:
        The planes of each image in this file: their number there (IFD) by their place.
    """
    try:
        root = ElementTree.fromstring(xml)
        uuid = root.get("UUID")
        if (companion := root.find("{*}BinaryOnly")) is not None:
            beside = path.with_name(Path(companion.get("MetadataFile", "")).name or path.name)
            root = ElementTree.fromstring(beside.read_bytes())
        data = list(_planes(root))
    except (ElementTree.ParseError, OSError, ValueError):
        return None
    files = {file for *_, file in data if file is not None}
    mine = {file for file in files if file[0] == uuid}  # a name may have changed
    mine = mine or {file for file in files if file[1].lower() == path.name.lower()}
    mine = files if len(files) == 1 else mine
    images: dict[int, dict[_Place, int]] = {}
    for image, place, ifd, file in data:
        if file is None or file in mine:
            images.setdefault(image, {})[place] = ifd
    return list(images.values()) or None


def _planes(root: ElementTree.Element) -> Iterator[tuple[int, _Place, int, _File | None]]:
    """Each plane of a set: number of its image, place and IFD, and file if it is named."""
    for number, image in enumerate(root.iterfind("{*}Image")):
        for pixels in image.iterfind("{*}Pixels"):
            order = [axis for axis in pixels.get("DimensionOrder", "XYCZT") if axis in OME_AXES]
            sizes = {axis: int(pixels.get(f"Size{axis}", 1)) for axis in OME_AXES}
            channel = pixels.find("{*}Channel")
            samples = 1 if channel is None else int(channel.get("SamplesPerPixel", 1))
            sizes["C"] = max(sizes["C"] // samples, 1)
            total = sizes["T"] * sizes["Z"] * sizes["C"]
            for data in pixels.iterfind("{*}TiffData"):
                start, step = 0, 1
                for axis in order:  # the fastest first
                    start += int(data.get(f"First{axis}", 0)) * step
                    step *= sizes[axis]
                alone = "IFD" in data.attrib
                left = max(total - start, 0)  # a count beyond it would be of no plane
                count = min(int(data.get("PlaneCount", 1 if alone else left)), left)
                named = data.find("{*}UUID")
                file = None
                if named is not None:
                    file = (named.text or "").strip(), named.get("FileName", "")
                for k in range(count):
                    rest, place = start + k, {}
                    for axis in order:
                        rest, place[axis] = divmod(rest, sizes[axis])
                    at = (place.get("T", 0), place.get("Z", 0), place.get("C", 0))
                    yield number, at, int(data.get("IFD", 0)) + k, file


FAX_COMPRESSIONS = (2, 3, 4)  # run lengths, Group 3, Group 4
_FAX_TAGS = (256, 257, 258, 259, 266, 277, 278, 292, 293, 322, 323)  # how it is coded
_HEADER = 8  # bytes
_LONG = 4  # type of a number


def decode_fax(page: Any) -> np.ndarray:
    """The bits of a page as they are stored: bool [H, W].

    Args:
        page: tifffile's.

    Raises:
        OSError: damaged.
    """
    handle = page.parent.filehandle
    segments = []
    with handle.lock:
        for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True):
            handle.seek(offset)
            segments.append(handle.read(count))
    counts = [len(segment) for segment in segments]
    starts = [_HEADER + sum(counts[:n]) for n in range(len(counts))]
    places, lengths = (324, 325) if page.is_tiled else (273, 279)
    tags = {code: [int(page.tags[code].value)] for code in _FAX_TAGS if code in page.tags}
    tags |= {262: [1], places: starts, lengths: counts}  # 262: MinIsBlack
    body = b"".join(segments)
    entries = b""
    for code, values in sorted(tags.items()):
        data = struct.pack(f"<{len(values)}I", *values)
        if len(values) > 1:
            data, body = struct.pack("<I", _HEADER + len(body)), body + data
        entries += struct.pack("<HHI", code, _LONG, len(values)) + data
    head = struct.pack("<2sHI", b"II", 42, _HEADER + len(body))
    directory = struct.pack("<H", len(tags)) + entries + bytes(4)
    with Image.open(io.BytesIO(head + body + directory), formats=("TIFF",)) as picture:
        return np.asarray(picture)
