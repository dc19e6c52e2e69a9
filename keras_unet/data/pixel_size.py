"""The physical size of a pixel, as microscopes' files state it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import tifffile
from pydantic import BaseModel, ConfigDict, Field

from keras_unet.data.upright import of_page

# Micrometres in one unit, by the names that OME-XML, OME-Zarr and ImageJ use.
_UNITS = {
    "µm": 1.0,  # micro sign
    "μm": 1.0,  # Greek mu
    "um": 1.0,
    "micron": 1.0,
    "microns": 1.0,
    "micrometer": 1.0,
    "micrometre": 1.0,
    "nm": 1e-3,
    "nanometer": 1e-3,
    "pm": 1e-6,
    "å": 1e-4,
    "angstrom": 1e-4,
    "mm": 1e3,
    "millimeter": 1e3,
    "cm": 1e4,
    "centimeter": 1e4,
    "m": 1e6,
    "meter": 1e6,
    "in": 25400.0,
    "inch": 25400.0,
}


class PixelSize(BaseModel):
    """Micrometres from one pixel to the next: down a column, along a row, from slice to slice."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    height: float = Field(gt=0, allow_inf_nan=False)
    width: float = Field(gt=0, allow_inf_nan=False)
    depth: float | None = Field(None, gt=0, allow_inf_nan=False)


def read_pixel_size(path: str | Path) -> PixelSize | None:
    """The pixel size that an OME-TIFF or ImageJ TIFF states; None if it states none.

    Height and width are those of the image as displayed (Orientation).
    Plain TIFF resolutions are not taken: most writers put a printer's 72 or 96 dots an inch there.
    Files of other kinds, and damaged ones, give None: reading their pixels will say more.
    """
    try:
        with tifffile.TiffFile(path) as file:
            return of_tiff(file)
    except Exception:  # tifffile raises struct.error, KeyError, … on broken files
        return None


def of_tiff(file: tifffile.TiffFile) -> PixelSize | None:
    """As `read_pixel_size`, for an open file."""
    size = _as_stored(file)
    if size is None or of_page(file.pages.first) < 5:
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


def in_micrometres(value: Any, unit: str | None) -> float | None:
    """A length in µm; None if it is no positive number or the unit is none of length."""
    factor = _UNITS.get(str(unit).strip().replace("\\u00B5", "µ").lower())
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    known = factor is not None and 0 < number < float("inf")
    return number * factor if known and factor else None


def of_sizes(height: float | None, width: float | None, depth: float | None) -> PixelSize | None:
    """A `PixelSize` if height and width are known."""
    if height is None or width is None:
        return None
    return PixelSize(height=height, width=width, depth=depth)


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
    return of_sizes(*sizes)


def _of_imagej(file: tifffile.TiffFile) -> PixelSize | None:
    """ImageJ writes pixels a unit into the resolution tags, and the unit into its description."""
    stated = file.imagej_metadata or {}
    tags = file.pages.first.tags
    unit = stated.get("unit")

    def size(name: str) -> float | None:
        numerator, denominator = tags.valueof(name, (0, 1))
        return in_micrometres(denominator / numerator if numerator else None, unit)

    height, width = size("YResolution"), size("XResolution")
    return of_sizes(height, width, in_micrometres(stated.get("spacing"), unit))
