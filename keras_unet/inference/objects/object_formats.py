"""Formats of objects: label images, tables, GeoJSON for QuPath and ROIs for Fiji.

GeoJSON as QuPath writes it (0.4 and later, QuPathTypeAdapters.java): a FeatureCollection, one
Feature an object, coordinates in pixels from the image's upper left corner, `properties` with
`objectType`, `classification` (name, colour) and `measurements`; `geometry.plane` names the slice
of a stack.
"""

from __future__ import annotations

import csv
import json
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from keras_unet.errors import ConfigError, DataError

if TYPE_CHECKING:  # what help lists must not import SciPy
    from roifile import ImagejRoi

    from keras_unet.data.stored_pixels import PixelSize
    from keras_unet.inference.objects.measurements import Table
    from keras_unet.inference.objects.polygons import Outline

Color = tuple[int, int, int]


@dataclass(frozen=True)
class ObjectSlice:
    """An image, or a slice of a stack.

    `outlines` are in the order of the table's rows; empty if no file needs them.
    """

    instances: np.ndarray  # [H, W], integers >= 0
    table: Table  # with `label` and `class`; for a stack `slice`
    outlines: Sequence[Outline]
    colors: Mapping[str, Color]  # of each class
    number: int | None = None  # from 0; None: no stack


class Sink(Protocol):
    """A file of objects under construction, made from its path and the pixels' size."""

    def add(self, objects: ObjectSlice) -> None: ...

    def finish(self) -> None:
        """Completes and closes the file."""

    def close(self) -> None:
        """Closes it, complete or not; may be called twice."""


_TILE = 512  # pixels; images with a longer side are written in tiles
_CLASSIC_LIMIT = 1 << 31  # uncompressed bytes from which on BigTIFF is written


class _Slice(NamedTuple):
    """Kept until the last one, when the type of all is known; in stacks compressed."""

    data: np.ndarray | bytes
    dtype: np.dtype[Any]

    def plane(self, shape: tuple[int, ...]) -> np.ndarray:
        if isinstance(self.data, bytes):
            return np.frombuffer(zlib.decompress(self.data), self.dtype).reshape(shape)
        return self.data


class LabelSink:
    """uint16, or uint32 where a number exceeds 65,535; a stack has the axes ZYX."""

    def __init__(self, path: Path, pixel_size: PixelSize | None = None) -> None:
        self._path, self._pixel_size = path, pixel_size
        self._slices: list[_Slice] = []
        self._shape: tuple[int, ...] | None = None
        self._stack = False

    def add(self, objects: ObjectSlice) -> None:
        instances = objects.instances
        if self._shape not in (None, instances.shape):
            raise DataError(
                f"slice {len(self._slices)} is {instances.shape}, the first {self._shape}; "
                "expected equal sizes"
            )
        self._shape, self._stack = instances.shape, objects.number is not None
        largest = int(objects.table["label"].max(initial=0))
        if largest > np.iinfo(np.uint32).max:
            raise DataError(f"label {largest} is too large for a label image; expected < 2^32")
        dtype = np.dtype(np.uint16 if largest <= np.iinfo(np.uint16).max else np.uint32)
        if self._stack:
            packed = zlib.compress(instances.astype(dtype).tobytes(), 1)
            self._slices.append(_Slice(packed, dtype))
        else:
            self._slices.append(_Slice(instances, dtype))

    def finish(self) -> None:
        import tifffile

        from keras_unet.data.stored_pixels import ome_size, tiff_resolution

        assert self._shape is not None
        dtype = max((part.dtype for part in self._slices), key=lambda kind: kind.itemsize)
        shape = (len(self._slices), *self._shape) if self._stack else self._shape
        axes = "ZYX" if self._stack else "YX"
        tiled = max(self._shape) > _TILE
        tifffile.imwrite(
            self._path,
            self._planes(dtype, _TILE if tiled else None),
            shape=shape,
            dtype=dtype,
            ome=True,
            bigtiff=int(np.prod(shape)) * dtype.itemsize > _CLASSIC_LIMIT,
            photometric="minisblack",
            compression="zlib",
            predictor=False,
            tile=(_TILE, _TILE) if tiled else None,
            metadata={"axes": axes, **ome_size(self._pixel_size, axes)},
            **tiff_resolution(self._pixel_size),
        )

    def close(self) -> None:
        self._slices.clear()

    def _planes(self, dtype: np.dtype[Any], tile: int | None) -> Iterator[np.ndarray]:
        """The slices one by one, or the tiles of each."""
        assert self._shape is not None
        for part in self._slices:
            plane = part.plane(self._shape)
            if tile is None:
                yield plane.astype(dtype)
                continue
            for top in range(0, self._shape[0], tile):
                for left in range(0, self._shape[1], tile):
                    block = plane[top : top + tile, left : left + tile]
                    missing = ((0, tile - block.shape[0]), (0, tile - block.shape[1]))
                    yield np.pad(block.astype(dtype), missing)


class TableSink:
    """One table of all slices, written at the end by `write(path, table)`."""

    def __init__(
        self,
        path: Path,
        pixel_size: PixelSize | None = None,
        *,
        write: Callable[[Path, Table], None],
    ) -> None:
        self._path, self._write = path, write
        self._tables: list[Table] = []

    def add(self, objects: ObjectSlice) -> None:
        self._tables.append(objects.table)

    def finish(self) -> None:
        self._write(self._path, stacked(self._tables))

    def close(self) -> None:
        self._tables.clear()


def stacked(tables: Sequence[Table]) -> Table:
    """The rows of one table after those of the other.

    Raises:
        DataError: their columns differ.
    """
    for table in tables[1:]:
        if list(table) != list(tables[0]):
            raise DataError(
                f"slices have different measurements: {', '.join(tables[0])} and "
                f"{', '.join(table)}; expected an image of the same channels, or none, for each"
            )
    return {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}


def write_csv(path: Path, table: Table) -> None:
    """UTF-8, commas, a line of names; NaN as empty.

    Floats have 6 significant digits, but at least 2 places: of an object whose outline is uncertain
    by a pixel the rest says nothing. Parquet keeps them whole.
    """
    columns = [_texts(column) for column in table.values()]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(table)
        writer.writerows(zip(*columns, strict=True))


def write_parquet(path: Path, table: Table) -> None:
    """The columns with their types.

    Raises:
        ConfigError: the package pyarrow is not installed.
    """
    require_pyarrow()
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table(table), path)


def require_pyarrow() -> None:
    """Says what to install, before any work is done.

    Raises:
        ConfigError: the package pyarrow is not installed.
    """
    try:
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            "Parquet needs the package pyarrow, which is not installed: "
            "pip install 'unet-keras[parquet]', or ask for csv"
        ) from error


def _texts(column: np.ndarray) -> list[str]:
    if column.dtype.kind == "f":
        return ["" if np.isnan(value) else _rounded(value) for value in column.tolist()]
    return [str(value) for value in column.tolist()]


def _rounded(value: float) -> str:
    if 1e4 <= abs(value) < 1e15:
        return str(round(value, 2)).removesuffix(".0")
    return f"{value:.6g}"


_NO_MEASUREMENTS = ("label", "class", "slice")


class GeoJsonSink:
    """A FeatureCollection, one Feature a line."""

    def __init__(self, path: Path, pixel_size: PixelSize | None = None) -> None:
        self._file = path.open("w", encoding="utf-8")
        self._file.write('{"type":"FeatureCollection","features":[')
        self._comma = ""

    def add(self, objects: ObjectSlice) -> None:
        for feature in features(objects):
            self._file.write(f"{self._comma}\n")
            # in one piece: json.dump writes each number by itself
            self._file.write(json.dumps(feature, separators=(",", ":"), allow_nan=False))
            self._comma = ","

    def finish(self) -> None:
        self._file.write("\n]}\n")
        self._file.close()

    def close(self) -> None:
        self._file.close()


def features(objects: ObjectSlice) -> Iterator[dict[str, Any]]:
    """One Feature an object; measurements that are not finite are left out, as JSON has none."""
    table = objects.table
    names = [name for name in table if name not in _NO_MEASUREMENTS]
    rows = zip(*(table[name].tolist() for name in names), strict=True)
    for outline, kind, row in zip(objects.outlines, table["class"].tolist(), rows, strict=True):
        measured = zip(names, row, strict=True)
        yield {
            "type": "Feature",
            "geometry": _geometry(outline, objects.number or 0),
            "properties": {
                "objectType": "detection",
                "name": str(outline.label),
                "classification": {"name": kind, "color": list(objects.colors[kind])},
                "measurements": {name: v for name, v in measured if np.isfinite(v)},
            },
        }


def _geometry(outline: Outline, slice_number: int) -> dict[str, Any]:
    parts = [[_closed(ring) for ring in polygon] for polygon in outline.polygons]
    geometry: dict[str, Any] = (
        {"type": "Polygon", "coordinates": parts[0]}
        if len(parts) == 1
        else {"type": "MultiPolygon", "coordinates": parts}
    )
    if slice_number:
        geometry["plane"] = {"c": -1, "z": slice_number, "t": 0}  # c = -1: all channels
    return geometry


def _closed(ring: np.ndarray) -> list[list[int]]:
    points: list[list[int]] = ring.tolist()
    return [*points, points[0]]


_MOVE, _LINE, _CLOSE = 0.0, 1.0, 4.0  # segments of java.awt.geom.PathIterator
_LARGEST = 60535  # ImageJ takes 16-bit numbers beyond this for negative ones


class RoiSink:
    """A zip file of ROIs named by the object's number, in stacks "slice-number" from slice 1."""

    def __init__(self, path: Path, pixel_size: PixelSize | None = None) -> None:
        self._archive = zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED)

    def add(self, objects: ObjectSlice) -> None:
        kinds = objects.table["class"].tolist()
        prefix = "" if objects.number is None else f"{objects.number + 1:04d}-"
        for outline, kind in zip(objects.outlines, kinds, strict=True):
            name = f"{prefix}{outline.label:04d}"
            roi = to_roi(outline, name, color=objects.colors[kind], slice_number=objects.number)
            self._archive.writestr(f"{name}.roi", roi.tobytes())

    def finish(self) -> None:
        self._archive.close()

    def close(self) -> None:
        self._archive.close()


def to_roi(
    outline: Outline,
    name: str,
    *,
    color: Color,
    slice_number: int | None = None,
) -> ImagejRoi:
    """The object as a ROI with exactly its pixels.

    A single polygon without holes becomes a traced ROI, as the wand tool makes it. Holes and
    several parts need a composite ROI, whose rings fill by the even-odd rule.

    Args:
        slice_number: from 0, in a stack; None: the ROI belongs to no slice.
    """
    from roifile import ROI_OPTIONS, ROI_TYPE, ImagejRoi

    rings = [ring for polygon in outline.polygons for ring in polygon]
    corners = np.concatenate(rings)
    left, top = corners.min(axis=0).tolist()
    right, bottom = corners.max(axis=0).tolist()
    roi = ImagejRoi(name=name, stroke_color=bytes((255, *color)))
    roi.top, roi.left, roi.bottom, roi.right = top, left, bottom, right
    if slice_number is not None:
        roi.position = slice_number + 1
    if len(rings) > 1:
        roi.roitype = ROI_TYPE.RECT
        roi.multi_coordinates = np.concatenate([_path(ring) for ring in rings])
        roi.shape_roi_size = roi.multi_coordinates.size
    else:
        roi.roitype = ROI_TYPE.TRACED
        roi.n_coordinates = len(corners)
        roi.integer_coordinates = corners - np.array([left, top], np.int32)
        if max(right, bottom) > _LARGEST:
            roi.options |= ROI_OPTIONS.SUB_PIXEL_RESOLUTION
            roi.subpixel_coordinates = corners.astype(np.float32)
    return roi


def _path(ring: np.ndarray) -> np.ndarray:
    """MOVETO x y, LINETO x y, …, CLOSE; float32, in image coordinates."""
    steps = np.column_stack([np.full(len(ring), _LINE), ring]).astype(np.float32)
    steps[0, 0] = _MOVE
    return np.append(steps.ravel(), np.float32(_CLOSE))


class ObjectFormat(NamedTuple):
    """A kind of file of objects.

    suffix: of its name, behind the image's. open: makes its `Sink`. outlines: it needs these.
    usual: written unless kinds are asked for. require: raises ConfigError where a package lacks.
    """

    suffix: str
    open: Callable[[Path, PixelSize | None], Sink]
    outlines: bool = False
    usual: bool = True
    require: Callable[[], None] = lambda: None


OBJECT_FORMATS: dict[str, ObjectFormat] = {
    "labels": ObjectFormat("_labels.tif", LabelSink),
    "csv": ObjectFormat("_objects.csv", partial(TableSink, write=write_csv)),
    "geojson": ObjectFormat("_objects.geojson", GeoJsonSink, outlines=True),
    "rois": ObjectFormat("_rois.zip", RoiSink, outlines=True),
    "parquet": ObjectFormat(
        "_objects.parquet",
        partial(TableSink, write=write_parquet),
        usual=False,
        require=require_pyarrow,
    ),
}
DEFAULT_FORMATS = tuple(name for name, kind in OBJECT_FORMATS.items() if kind.usual)


def require_formats(names: Collection[str]) -> None:
    """Refuses kinds of files that can't be written, before any work is done.

    Raises:
        ConfigError: one is unknown, a package that it needs is not installed, or none is given.
    """
    unknown = [name for name in names if name not in OBJECT_FORMATS]
    if unknown or not names:
        raise ConfigError(
            f"formats are {', '.join(OBJECT_FORMATS)}; got {', '.join(unknown) or 'none'}"
        )
    for name in names:
        OBJECT_FORMATS[name].require()
