"""Writer of objects as files: label image, table, polygons for QuPath, ROIs for Fiji."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from keras_unet.data.stored_pixels import PixelSize
from keras_unet.disk import replacing
from keras_unet.errors import DataError
from keras_unet.inference.objects.measurements import Table, as_instances, measure, to_pixel_size
from keras_unet.inference.objects.object_formats import (
    DEFAULT_FORMATS,
    OBJECT_FORMATS,
    Color,
    ObjectSlice,
    Sink,
    require_formats,
)
from keras_unet.inference.objects.polygons import outlines
from keras_unet.pictures import class_color

Classes = str | Mapping[int, str]


def write_objects(
    instances: np.ndarray,
    folder: str | Path,
    stem: str,
    *,
    image: np.ndarray | None = None,
    pixel_size: float | tuple[float, float] | PixelSize | None = None,
    classes: Classes | Sequence[Classes] = "cell",
    channels: Sequence[str] | None = None,
    formats: Sequence[str] = DEFAULT_FORMATS,
) -> list[Path]:
    """Writes an image's objects, or a stack's, and returns the files.

    - labels: STEM_labels.tif, the object numbers as OME-TIFF, compressed; uint16, or uint32 where
      a number exceeds 65,535;
    - csv, parquet: STEM_objects.csv, the columns of `measure`, with the class after the label; for
      a stack one table with the slice (from 0) first. Parquet needs pyarrow;
    - geojson: STEM_objects.geojson: drop it onto the image in QuPath. Exact polygons along pixel
      edges, with holes; an object of several parts is a MultiPolygon;
    - rois: STEM_rois.zip for Fiji's ROI Manager: exact too; composite ROIs for holes and parts.

    All files appear together, when the last is complete.

    Args:
        instances: integer labels [H, W] >= 0, 0 = background; [Z, H, W] for a stack, whose slices
            are numbered each for itself.
        image: [H, W] or [H, W, C], for intensities; [Z, H, W] or [Z, H, W, C] for a stack.
        pixel_size: micrometres, or (height, width); goes into table and label image.
        classes: the objects' class, or {label: class}; for a stack also one of these a slice.
        channels: names of the image's channels.

    Raises:
        DataError: shapes or types do not fit. ConfigError: an unknown format, or pyarrow is
            missing.
    """
    instances = np.asarray(instances)
    stack = instances.ndim == 3
    slices = instances if stack else instances[None]
    images: Any = [None] * len(slices)
    if image is not None:
        images = image if stack else [image]
        if len(images) != len(slices):
            raise DataError(f"image has {len(images)} slices, instances {len(slices)}")
    one = isinstance(classes, (str, Mapping))
    each: Any = [classes] * len(slices) if one else classes
    if len(each) != len(slices):
        raise DataError(f"classes has {len(each)} entries, instances {len(slices)} slices")
    writer = ObjectWriter(
        folder, stem, pixel_size=pixel_size, channels=channels, formats=formats, stack=stack
    )
    with writer:
        for labels, pixels, kind in zip(slices, images, each, strict=True):
            writer.add(labels, pixels, kind)
    return writer.paths


class ObjectWriter(AbstractContextManager["ObjectWriter"]):
    """`write_objects` slice by slice; only tables and compressed labels are kept in memory.

        with ObjectWriter("out", "cells", stack=True) as writer:
            for instances, image in slices:
                writer.add(instances, image)
        print(writer.paths)

    Nothing is left behind if the block raises. Arguments and errors as for `write_objects`.
    """

    def __init__(
        self,
        folder: str | Path,
        stem: str,
        *,
        pixel_size: float | tuple[float, float] | PixelSize | None = None,
        channels: Sequence[str] | None = None,
        formats: Sequence[str] = DEFAULT_FORMATS,
        stack: bool = False,
    ) -> None:
        require_formats(formats)
        self._formats = {name: OBJECT_FORMATS[name] for name in formats}
        self.paths = [Path(folder) / f"{stem}{kind.suffix}" for kind in self._formats.values()]
        self._pixel_size = to_pixel_size(pixel_size)
        self._channels, self._stack = channels, stack
        self._colors: dict[str, Color] = {}
        self._sinks: list[Sink] = []
        self._files = ExitStack()
        self._slices = 0

    def __enter__(self) -> ObjectWriter:
        with ExitStack() as files:
            for kind, path in zip(self._formats.values(), self.paths, strict=True):
                path.parent.mkdir(parents=True, exist_ok=True)
                sink = kind.open(files.enter_context(replacing(path)), self._pixel_size)
                files.callback(sink.close)
                self._sinks.append(sink)
            self._files = files.pop_all()
        return self

    def add(
        self, instances: np.ndarray, image: np.ndarray | None = None, classes: Classes = "cell"
    ) -> ObjectSlice:
        """Measures the next slice and puts it into the files; don't alter it before the end."""
        instances = as_instances(instances)
        measured = measure(instances, image, self._pixel_size, channels=self._channels)
        labels = measured.pop("label")
        number = self._slices if self._stack else None
        table: Table = {} if number is None else {"slice": np.full(labels.size, number)}
        table |= {"label": labels, "class": _names(labels.tolist(), classes), **measured}
        for kind in dict.fromkeys(table["class"].tolist()):
            if kind not in self._colors:
                red, green, blue = class_color(1 + len(self._colors)).tolist()
                self._colors[kind] = (red, green, blue)
        wanted = any(kind.outlines for kind in self._formats.values())
        drawn = list(outlines(instances)) if wanted else []
        objects = ObjectSlice(instances, table, drawn, self._colors, number)
        for sink in self._sinks:
            sink.add(objects)
        self._slices += 1
        return objects

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            self._files.__exit__(kind, error, trace)
            return
        with self._files:  # each takes its name as the block ends
            if not self._slices:
                raise DataError("no image was added to the objects' files; expected one or more")
            for sink in self._sinks:
                sink.finish()


def _names(labels: Iterable[int], classes: Classes) -> np.ndarray:
    """The class of each label, as text."""
    if isinstance(classes, str):
        return np.array([classes for _ in labels], np.str_)
    try:
        return np.array([classes[label] for label in labels], np.str_)
    except KeyError as error:
        raise DataError(f"classes has no entry for object {error}") from None
