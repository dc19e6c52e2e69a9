"""Formats of masks and probabilities: PNG, TIFF and OME-Zarr, written window by window.

OME-Zarr is version 0.4 on Zarr format 2, which all of its readers know; it needs zarr.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:  # what help lists must be imported at once
    from pathlib import Path

    import tifffile

    from keras_unet.data.label_rule import LabelMapping
    from keras_unet.data.stored_pixels import PixelSize
    from keras_unet.inference.files.state import Scratch

Shapes = Sequence[tuple[int, int, int]]
WHOLE = 1 << 22  # pixels; larger planes are stored in tiles, with smaller versions for viewers


def label_values(labels: LabelMapping) -> np.ndarray:
    """The value of each class, as the training labels had it: uint8, uint16 or int32 [classes].

    Two classes 0 and 1 become 0 and 255: visible in any viewer, and read back as 0 and 1.
    """
    values = labels.values if labels.kind == "semantic" else (0, 255)
    if tuple(values) == (0, 1):
        values = (0, 255)
    kinds = (np.uint8, np.uint16, np.int32)
    fits = [k for k in kinds if min(values) >= np.iinfo(k).min and max(values) <= np.iinfo(k).max]
    return np.asarray(values, fits[0])


class Sheet(NamedTuple):
    """A result that waits in a scratch file to be written.

    Attributes:
        scratch: its planes.
        dtype: of the pixels once written.
        values: scratch pixels to pixels of `dtype`, elementwise; None leaves them as they are.
        axes: what the pages are counted by, outermost first; see `WindowedFile.axes`.
        channels: names of the planes of a page; empty if a page has one plane without a name.
        pixel_size: of the image.
        name: of the image.
        key: text that is the same whenever the content is.
        classes: names of a mask's values, the background's first; None: no mask.
    """

    scratch: Scratch
    dtype: np.dtype
    values: Callable[[np.ndarray], np.ndarray] | None
    axes: Sequence[tuple[str, int]]
    channels: Sequence[str]
    pixel_size: PixelSize | None
    name: str
    key: str
    classes: Mapping[int, str] | None = None

    @property
    def uniform(self) -> bool:
        """Whether all pages have one size."""
        return len({shape[1:] for shape in self.scratch.shapes}) == 1

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the first page."""
        return self.scratch.shapes[0][1:]

    @property
    def dimensions(self) -> tuple[tuple[str, int], ...]:
        """All axes with their lengths: ("Z", 3), ("C", 2), ("Y", 64), ("X", 80)."""
        channels = (("C", len(self.channels)),) if self.channels else ()
        return (*self.axes, *channels, ("Y", self.size[0]), ("X", self.size[1]))

    @property
    def planes(self) -> list[tuple[int, int]]:
        """(page, plane) in the order of the axes."""
        return [
            (page, plane)
            for page, shape in enumerate(self.scratch.shapes)
            for plane in range(shape[0])
        ]

    def read(self, page: int, plane: int, rows: slice, step: int = 1) -> np.ndarray:
        """Rows of a plane [h, W] as they are to be written; see `Scratch.read`."""
        stored = self.scratch.read(page, plane, rows, step)
        return np.asarray(stored if self.values is None else self.values(stored), self.dtype)


def levels(size: tuple[int, int], smallest: int = 2048) -> int:
    """How many halvings of an image for viewers, until its longer side is `smallest` at most."""
    count = 0
    while max(size) > smallest << count:
        count += 1
    return count


def write_png(path: Path, sheet: Sheet) -> None:
    """Writes a sheet of a single plane: a mask, with colours for viewers; see `save_mask`."""
    from keras_unet.pictures import save_mask

    save_mask(path, sheet.read(0, 0, slice(0, sheet.size[0])), sheet.classes)


TILE = 512  # pixels a side
# Without the first, TIFF writers take three or four pages for the channels of a colour image.
_GREY: dict[str, Any] = {"photometric": "minisblack", "compression": "zlib", "maxworkers": 1}


def write_tiff(path: Path, sheet: Sheet) -> None:
    """Writes a sheet as BigTIFF, window by window.

    A stack, named channels or a known pixel size make it an OME-TIFF: axes, names, micrometres.
    (OME knows no float16: there they stand in tifffile's own description.) Pages of unequal size
    are plain pages. Planes of more than 2048 x 2048 pixels are stored in tiles, each followed by
    halved versions (every second pixel), as QuPath and other viewers need them.
    """
    import tifffile

    told = bool(sheet.axes or sheet.channels or sheet.pixel_size) and sheet.uniform
    ome = told and sheet.dtype != np.float16
    with tifffile.TiffWriter(path, bigtiff=True, ome=ome, shaped=told and not ome) as writer:
        if not sheet.uniform:
            for page, plane in sheet.planes:
                _write(writer, sheet, [(page, plane)], None)
            return
        _write(writer, sheet, sheet.planes, _metadata(sheet, ome) if told else None)


def _write(
    writer: tifffile.TiffWriter,
    sheet: Sheet,
    planes: list[tuple[int, int]],
    metadata: dict[str, Any] | None,
) -> None:
    """Writes planes of one size, and smaller versions of them."""
    from keras_unet.data.stored_pixels import tiff_resolution

    height, width = sheet.scratch.shapes[planes[0][0]][1:]
    tiled = height * width > WHOLE
    smaller = tiled and sheet.dtype != np.float16  # tifffile's own description knows none
    count = levels((height, width)) if smaller else 0
    outer = tuple(n for _, n in sheet.dimensions[:-2]) if len(planes) > 1 else (len(planes),)
    options = {**_GREY, **tiff_resolution(sheet.pixel_size)}
    for level in range(count + 1):
        step = 1 << level
        size = (-(-height // step), -(-width // step))
        writer.write(
            _tiles(sheet, planes, step) if tiled else _pages(sheet, planes),
            shape=(*outer, *size) if np.prod(outer) > 1 else size,
            dtype=sheet.dtype,
            tile=(TILE, TILE) if tiled else None,
            subifds=count if level == 0 and count else None,
            subfiletype=1 if level else None,
            metadata=metadata if level == 0 else None,
            **(options if level == 0 else _GREY),
        )


def _pages(sheet: Sheet, planes: list[tuple[int, int]]) -> Iterator[np.ndarray]:
    for page, plane in planes:
        yield sheet.read(page, plane, slice(0, sheet.scratch.shapes[page][1]))


def _tiles(sheet: Sheet, planes: list[tuple[int, int]], step: int) -> Iterator[np.ndarray]:
    for page, plane in planes:
        height = sheet.scratch.shapes[page][1]
        for top in range(0, height, TILE * step):
            rows = sheet.read(page, plane, slice(top, min(top + TILE * step, height)), step)
            for left in range(0, rows.shape[1], TILE):
                yield rows[:, left : left + TILE]


def _metadata(sheet: Sheet, ome: bool) -> dict[str, Any]:
    import uuid

    from keras_unet.data.stored_pixels import ome_size

    found: dict[str, Any] = {"axes": "".join(name for name, _ in sheet.dimensions)}
    if ome:
        found["Name"] = sheet.name
        found["UUID"] = str(uuid.uuid5(uuid.NAMESPACE_URL, sheet.key))  # else a random one
    if sheet.channels:
        found["Channel"] = {"Name": list(sheet.channels)}
    found |= ome_size(sheet.pixel_size, "YXZ")
    return found


CHUNK = 512  # pixels a side
_TYPES = {"T": "time", "C": "channel", "Z": "space", "Y": "space", "X": "space"}


def write_zarr(path: Path, sheet: Sheet) -> None:
    """Writes a sheet as a multiscale image, window by window; halved by every second pixel.

    Pages must have one size.

    Raises:
        DataError: zarr is not installed.
    """
    from keras_unet.data.zarr_windows import import_zarr

    zarr = import_zarr()
    form = {"zarr_format": 2} if int(zarr.__version__.split(".")[0]) >= 3 else {}
    group = zarr.open_group(str(path), mode="w", **form)
    dimensions = sheet.dimensions
    outer = tuple(length for _, length in dimensions[:-2])
    height, width = sheet.size
    count = levels(sheet.size)
    for level in range(count + 1):
        step = 1 << level
        size = (-(-height // step), -(-width // step))
        array = zarr.create(
            store=str(path),
            path=str(level),
            shape=(*outer, *size),
            chunks=(*(1 for _ in outer), min(CHUNK, size[0]), min(CHUNK, size[1])),
            dtype=sheet.dtype,
            fill_value=0,
            compressor=_compressor(),
            dimension_separator="/",
            **form,
        )
        for number, (page, plane) in enumerate(sheet.planes):
            place = tuple(map(int, np.unravel_index(number, outer))) if outer else ()
            for top in range(0, size[0], CHUNK):
                bottom = min(top + CHUNK, size[0])
                rows = slice(top * step, min(bottom * step, height))
                array[(*place, slice(top, bottom))] = sheet.read(page, plane, rows, step)
    group.attrs.put(_attributes(sheet, count))


def _compressor() -> Any:
    import numcodecs  # comes with zarr

    return numcodecs.Zlib(level=5)  # Blosc's threads don't give the same bytes every time


def _attributes(sheet: Sheet, count: int) -> dict[str, Any]:
    size = sheet.pixel_size
    known = {} if size is None else {"Z": size.depth, "Y": size.height, "X": size.width}
    axes = []
    for name, _ in sheet.dimensions:
        axis = {"name": name.lower(), "type": _TYPES[name]}
        if known.get(name) is not None:
            axis["unit"] = "micrometer"
        axes.append(axis)
    datasets = [
        {
            "path": str(level),
            "coordinateTransformations": [
                {
                    "type": "scale",
                    "scale": [
                        float((known.get(name) or 1.0) * (1 << level if name in "YX" else 1))
                        for name, _ in sheet.dimensions
                    ],
                }
            ],
        }
        for level in range(count + 1)
    ]
    found: dict[str, Any] = {
        "multiscales": [{"version": "0.4", "name": sheet.name, "axes": axes, "datasets": datasets}]
    }
    if sheet.channels:
        window = {"min": 0.0, "max": 255.0 if sheet.dtype == np.uint8 else 1.0}
        found["omero"] = {
            "channels": [
                {
                    "label": name,
                    "color": "FFFFFF",
                    "window": {**window, "start": window["min"], "end": window["max"]},
                }
                for name in sheet.channels
            ]
        }
    return found


def _in_png(shapes: Shapes, dtype: np.dtype) -> str | None:
    if len(shapes) > 1:
        return f"a stack of {len(shapes)} images; use tiff, zarr or auto"
    return "label values over 65,535; use tiff, zarr or auto" if dtype.itemsize > 2 else None


def _in_zarr(shapes: Shapes, dtype: np.dtype) -> str | None:
    from keras_unet.data.zarr_windows import import_zarr

    import_zarr()
    unequal = len({shape[:2] for shape in shapes}) > 1
    return "images of unequal size; use tiff" if unequal else None


class MaskFormat(NamedTuple):
    """A kind of file of masks.

    title: as messages call it. suffix: of its name. write: a sheet to a path. refuses: what of
    images of these shapes, in this type, it can't hold; None: nothing. probabilities: the kind that
    these are written in beside it. halved: smaller versions are always part of it.
    """

    title: str
    suffix: str
    write: Callable[[Path, Sheet], None]
    refuses: Callable[[Shapes, np.dtype], str | None] = lambda shapes, dtype: None
    probabilities: str = "tiff"
    halved: bool = False


MASK_FORMATS: dict[str, MaskFormat] = {
    "png": MaskFormat("PNG", ".png", write_png, _in_png),
    "tiff": MaskFormat("TIFF", ".tif", write_tiff),
    "zarr": MaskFormat("Zarr", ".zarr", write_zarr, _in_zarr, probabilities="zarr", halved=True),
}
