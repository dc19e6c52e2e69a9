"""Pixel sizes as microscopes' files state them."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile

from keras_unet.data.stored_pixels import PixelSize, in_micrometres
from keras_unet.data.tiff_windows import read_pixel_size

STACK = np.zeros((3, 40, 50), np.uint8)


def test_ome_with_units(tmp_path):
    metadata = {
        "axes": "ZYX",
        "PhysicalSizeX": 325,
        "PhysicalSizeXUnit": "nm",
        "PhysicalSizeY": 0.5,
        "PhysicalSizeZ": 2.0,
    }
    tifffile.imwrite(tmp_path / "a.ome.tif", STACK, metadata=metadata)
    assert read_pixel_size(tmp_path / "a.ome.tif") == PixelSize(height=0.5, width=0.325, depth=2.0)


@pytest.mark.parametrize(
    ("unit", "factor"), [("um", 1), ("micron", 1), ("\\u00B5m", 1), ("mm", 1e3)]
)
def test_imagej(tmp_path, unit, factor):
    tifffile.imwrite(
        tmp_path / "a.tif",
        STACK,
        imagej=True,
        resolution=(4.0, 2.0),  # pixels a unit: across, down
        metadata={"axes": "ZYX", "unit": unit, "spacing": 3.0},
    )
    found = read_pixel_size(tmp_path / "a.tif")
    expected = PixelSize(height=0.5 * factor, width=0.25 * factor, depth=3.0 * factor)
    assert found == expected


@pytest.mark.parametrize("unit", ["pixel", "inches of rain", ""])
def test_an_unknown_unit_gives_no_size(tmp_path, unit):
    tifffile.imwrite(
        tmp_path / "a.tif", STACK, imagej=True, resolution=(4.0, 2.0), metadata={"unit": unit}
    )
    assert read_pixel_size(tmp_path / "a.tif") is None


def test_dots_an_inch_are_no_pixel_size(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", STACK[0], resolution=(72, 72), resolutionunit="INCH")
    assert read_pixel_size(tmp_path / "a.tif") is None
    (tmp_path / "b.tif").write_bytes(b"II*\0nonsense")
    assert read_pixel_size(tmp_path / "b.tif") is None


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), "wide", None])
def test_no_length(value):
    assert in_micrometres(value, "um") is None


def test_sizes_are_turned_as_the_image_is(tmp_path):
    for orientation, height, width in ((1, 2.0, 0.5), (3, 2.0, 0.5), (6, 0.5, 2.0)):
        tifffile.imwrite(
            tmp_path / "a.ome.tif",
            np.zeros((5, 6), np.uint8),
            metadata={"axes": "YX", "PhysicalSizeY": 2.0, "PhysicalSizeX": 0.5},
            extratags=[(274, 3, 1, orientation, True)],
        )
        found = read_pixel_size(tmp_path / "a.ome.tif")
        assert (found.height, found.width) == (height, width)
