"""Objects as GeoJSON that QuPath opens, with classes and measurements.

As QuPath writes it (0.4 and later, QuPathTypeAdapters.java): a FeatureCollection, one Feature an
object, coordinates in pixels from the image's upper left corner, `properties` with `objectType`,
`classification` (name, colour) and `measurements`; `geometry.plane` names the slice of a stack.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from keras_unet.inference.objects.measured import ObjectSlice
from keras_unet.inference.objects.polygons import Outline

_NO_MEASUREMENTS = ("label", "class", "slice")


class GeoJsonSink:
    """A FeatureCollection, one Feature a line."""

    def __init__(self, path: Path) -> None:
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
