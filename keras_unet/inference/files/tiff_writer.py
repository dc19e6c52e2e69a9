"""Results as TIFF: compressed, large ones in tiles and with smaller versions for viewers."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from keras_unet.inference.files.sheets import Sheet, levels

TILE = 512  # pixels a side
_WHOLE = 1 << 22  # pixels; larger planes are stored in tiles
# Without the first, TIFF writers take three or four pages for the channels of a colour image.
_GREY: dict[str, Any] = {"photometric": "minisblack", "compression": "zlib", "maxworkers": 1}


def write_tiff(path: Path, sheet: Sheet) -> None:
    """Writes a sheet as BigTIFF, window by window.

    A stack, named channels or a known pixel size make it an OME-TIFF: axes, names, micrometres.
    (OME knows no float16: there they stand in tifffile's own description.) Pages of unequal size
    are plain pages. Planes of more than 2048 x 2048 pixels are stored in tiles, each followed by
    halved versions (every second pixel), as QuPath and other viewers need them.
    """
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
    height, width = sheet.scratch.shapes[planes[0][0]][1:]
    tiled = height * width > _WHOLE
    smaller = tiled and sheet.dtype != np.float16  # tifffile's own description knows none
    count = levels((height, width)) if smaller else 0
    outer = tuple(n for _, n in sheet.dimensions[:-2]) if len(planes) > 1 else (len(planes),)
    options = {**_GREY, **_resolution(sheet)}
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
    found: dict[str, Any] = {"axes": "".join(name for name, _ in sheet.dimensions)}
    if ome:
        found["Name"] = sheet.name
        found["UUID"] = str(uuid.uuid5(uuid.NAMESPACE_URL, sheet.key))  # else a random one
    if sheet.channels:
        found["Channel"] = {"Name": list(sheet.channels)}
    if sheet.pixel_size is not None:
        sizes = zip("YXZ", sheet.pixel_size.model_dump().values(), strict=True)
        for axis, size in sizes:
            if size is not None:
                found |= {f"PhysicalSize{axis}": size, f"PhysicalSize{axis}Unit": "µm"}
    return found


def _resolution(sheet: Sheet) -> dict[str, Any]:
    """Pixels a centimetre, for programs that read neither description."""
    if sheet.pixel_size is None:
        return {}
    size = sheet.pixel_size
    return {"resolution": (1e4 / size.width, 1e4 / size.height), "resolutionunit": "CENTIMETER"}
