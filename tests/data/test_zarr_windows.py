"""Zarr arrays and OME-Zarr images, by windows."""

from __future__ import annotations

import json

import numpy as np
import pytest

from keras_unet.data.images import is_zarr
from keras_unet.data.stored_pixels import PixelSize
from keras_unet.data.zarr_windows import ZarrWindows
from keras_unet.errors import DataError

zarr = pytest.importorskip("zarr", minversion="3")
H, W = 70, 90


def pixels(shape):
    return np.random.default_rng(0).integers(0, 255, shape, np.uint8)


def write(path, image, form=2, **more):
    chunks = (*(1 for _ in image.shape[:-2]), 32, 24)
    array = zarr.create_array(
        store=str(path),
        shape=image.shape,
        chunks=chunks[: image.ndim],
        dtype=image.dtype,
        zarr_format=form,
        **more,
    )
    array[...] = image


@pytest.mark.parametrize("form", [2, 3])
@pytest.mark.parametrize(
    ("shape", "channels", "pages", "order"),
    [
        ((H, W), 1, 1, "YX"),
        ((5, H, W), 1, 5, "ZYX"),
        ((3, H, W), 3, 1, "CYX"),
        ((H, W, 3), 3, 1, "YXC"),
    ],
)
def test_arrays_without_names(tmp_path, form, shape, channels, pages, order):
    image = pixels(shape)
    array = zarr.create_array(
        store=str(tmp_path / "a"),
        shape=shape,
        chunks=(32,) * len(shape),
        dtype="u1",
        zarr_format=form,
    )
    array[...] = image
    assert is_zarr(tmp_path / "a")
    file = ZarrWindows(tmp_path / "a", channels)
    assert len(file) == pages
    assert file.axes == ((("Z", pages),) if pages > 1 else ())
    assert file.shapes[0] == (H, W, channels)
    if order == "CYX":
        image = np.moveaxis(image, 0, -1)
    expected = image.reshape(-1, H, W, channels) if order != "YXC" else image[None]
    for number in range(pages):
        window = file.page(number).read(slice(20, 65), slice(10, 80))
        np.testing.assert_array_equal(window, expected[number, 20:65, 10:80])


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_ome_zarr_at_full_resolution_with_axes_and_sizes(tmp_path, version):
    image = pixels((2, 3, 4, H, W))
    form = {"0.4": 2, "0.5": 3}[version]
    group = zarr.open_group(str(tmp_path / "a.zarr"), mode="w", zarr_format=form)
    write(tmp_path / "a.zarr" / "full", image, form)
    write(tmp_path / "a.zarr" / "half", image[..., ::2, ::2], form)
    axes = [
        {"name": "t", "type": "time"},
        {"name": "c", "type": "channel"},
        *({"name": name, "type": "space", "unit": "nanometer"} for name in "zyx"),
    ]
    scale = {"type": "scale", "scale": [1, 1, 2000, 250, 125]}
    again = {"type": "scale", "scale": [1, 1, 1, 2, 2]}
    image_attributes = {
        "multiscales": [
            {
                "axes": axes,
                "datasets": [
                    {"path": "full", "coordinateTransformations": [scale]},
                    {"path": "half", "coordinateTransformations": [scale]},
                ],
                "coordinateTransformations": [again],
            }
        ]
    }
    group.attrs.put(image_attributes if form == 2 else {"ome": image_attributes})
    file = ZarrWindows(tmp_path / "a.zarr", 3)
    assert file.axes == (("T", 2), ("Z", 4))
    assert file.shapes == [(H, W, 3)] * 8
    assert file.pixel_size == PixelSize(height=0.5, width=0.25, depth=2.0)
    for number, (t, z) in enumerate(np.ndindex(2, 4)):
        window = file.page(number).read(slice(5, 40), slice(0, W))
        np.testing.assert_array_equal(window, np.moveaxis(image[t, :, z], 0, -1)[5:40])


def test_names_of_axes_count(tmp_path):
    image = pixels((4, H, W))
    write(tmp_path / "a", image, 3, dimension_names=("t", "y", "x"))
    assert ZarrWindows(tmp_path / "a", 4).axes == (("T", 4),)
    write(tmp_path / "b", image, 3, dimension_names=("c", "y", "x"))
    assert ZarrWindows(tmp_path / "b", 1).shapes == [(H, W, 4)]


def test_missing_chunks_are_the_fill_value(tmp_path):
    zarr.create_array(
        store=str(tmp_path / "a"), shape=(H, W), chunks=(32, 32), dtype="u1", fill_value=7
    )
    window = ZarrWindows(tmp_path / "a", 1).page(0).read(slice(0, H), slice(0, W))
    assert (window == 7).all()


@pytest.mark.parametrize(
    ("names", "message"),
    [(("q", "y", "x"), "expected y and x"), (("z", "c", "x"), "expected y and x")],
)
def test_other_axes_are_refused(tmp_path, names, message):
    write(tmp_path / "a", pixels((4, H, W)), 3, dimension_names=names)
    with pytest.raises(DataError, match=message):
        ZarrWindows(tmp_path / "a", 1)


def test_unnamed_four_dimensions_are_refused(tmp_path):
    write(tmp_path / "a", pixels((2, 3, H, W)))
    with pytest.raises(DataError, match="expected a name for each axis"):
        ZarrWindows(tmp_path / "a", 1)


def test_a_group_of_arrays_and_damage(tmp_path):
    zarr.open_group(str(tmp_path / "g"), mode="w", zarr_format=2)
    write(tmp_path / "g" / "cells", pixels((H, W)))
    with pytest.raises(DataError, match="expected an array or an OME-Zarr image"):
        ZarrWindows(tmp_path / "g", 1)
    (chunk,) = (tmp_path / "g" / "cells").glob("0.0")
    chunk.write_bytes(b"nonsense")
    page = ZarrWindows(tmp_path / "g" / "cells", 1).page(0)
    with pytest.raises(DataError, match="damaged"):
        page.read(slice(0, 10), slice(0, W))
    (tmp_path / "g" / "cells" / ".zarray").write_text(json.dumps({"zarr_format": 2}))
    with pytest.raises(DataError, match="cannot be read as Zarr"):
        ZarrWindows(tmp_path / "g" / "cells", 1)


def test_without_zarr_it_says_what_to_install(tmp_path, monkeypatch):
    write(tmp_path / "a", pixels((H, W)))
    monkeypatch.setitem(__import__("sys").modules, "zarr", None)
    with pytest.raises(DataError, match="unet-keras\\[zarr\\]"):
        ZarrWindows(tmp_path / "a", 1)
