"""Results as OME-Zarr (0.4, on Zarr format 2, which all of its readers know); needs zarr."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from keras_unet.data.zarr_windows import import_zarr
from keras_unet.inference.files.sheets import Sheet, levels

CHUNK = 512  # pixels a side
_TYPES = {"T": "time", "C": "channel", "Z": "space", "Y": "space", "X": "space"}


def write_zarr(path: Path, sheet: Sheet) -> None:
    """Writes a sheet as a multiscale image, window by window; halved by every second pixel.

    Pages must have one size.

    Raises:
        DataError: zarr is not installed.
    """
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
