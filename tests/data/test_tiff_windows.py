"""Windows of TIFF files equal the same part of the file read whole."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
from PIL import Image

from keras_unet.data.images import ImageFile
from keras_unet.data.tiff_windows import TiffWindows
from keras_unet.errors import DataError

H, W = 101, 83
LAYOUTS = [
    {},
    {"compression": "zlib"},
    {"compression": "zlib", "rowsperstrip": 7, "predictor": True},
    {"compression": "zlib", "tile": (32, 48)},
    {"rowsperstrip": 1},
    {"tile": (16, 16)},
]


def pixels(shape, dtype="uint8"):
    values = np.random.default_rng(0).random(shape) * 200
    return values > 100 if dtype == "bool" else values.astype(dtype)


def check(path, channels=None):
    """Compares random windows, and one strip after the other; returns size of the blocks."""
    rng = np.random.default_rng(1)
    with ImageFile(path) as whole, TiffWindows(path, channels) as file:
        assert len(file) == len(whole)
        for number in range(len(whole)):
            expected, page = whole.image(number), file.page(number)
            assert page.shape == file.shapes[number] == expected.shape
            assert page.dtype == expected.dtype
            spans = [tuple(sorted(rng.choice(expected.shape[0] + 1, 2, False))) for _ in range(4)]
            spans += [(top, min(top + 24, expected.shape[0])) for top in range(0, H - 24, 16)]
            for top, bottom in spans:
                left, right = sorted(rng.choice(expected.shape[1] + 1, 2, False))
                window = page.read(slice(int(top), int(bottom)), slice(int(left), int(right)))
                assert window.dtype == expected.dtype
                np.testing.assert_array_equal(window, expected[top:bottom, left:right])
    return page.block


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32", "float64", "bool"])
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_grey(tmp_path, dtype, layout):
    if dtype in ("float32", "float64", "bool"):
        layout = {name: value for name, value in layout.items() if name != "predictor"}
    for order in "<>":
        image = pixels((H, W), dtype)
        tifffile.imwrite(
            tmp_path / "a.tif", image, byteorder=order, photometric="minisblack", **layout
        )
        block = check(tmp_path / "a.tif")
    assert block[0] == layout.get("tile", [None])[0] or "tile" not in layout


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("kind", ["rgb", "planar", "opaque"])
def test_colour(tmp_path, layout, kind):
    image = pixels({"rgb": (H, W, 3), "planar": (3, H, W), "opaque": (H, W, 4)}[kind], "uint16")
    more = {"planarconfig": "separate"} if kind == "planar" else {}
    if kind == "opaque":
        image[..., 3] = 65535
        more = {"extrasamples": ["unassalpha"]}
    tifffile.imwrite(tmp_path / "a.tif", image, photometric="rgb", **more, **layout)
    check(tmp_path / "a.tif")


def test_transparency_is_refused(tmp_path):
    image = pixels((H, W, 4))
    tifffile.imwrite(
        tmp_path / "a.tif", image, photometric="rgb", extrasamples=["unassalpha"], tile=(16, 16)
    )
    with TiffWindows(tmp_path / "a.tif") as file, pytest.raises(DataError, match="transparent"):
        file.page(0).read(slice(0, 5), slice(0, W))


@pytest.mark.parametrize(
    ("shape", "written", "axes", "one"),
    [
        ((2, 3, 2, H, W), {"metadata": {"axes": "TZCYX"}}, (("T", 2), ("Z", 3)), (H, W, 2)),
        ((2, 3, 2, H, W), {"imagej": True}, (("T", 2), ("Z", 3)), (H, W, 2)),
        ((9, H, W), {"metadata": {"axes": "CYX"}}, (), (H, W, 9)),  # as the model has channels
        ((8, H, W), {"metadata": {"axes": "CYX"}}, (("Z", 8),), (H, W, 1)),
        ((5, H, W), {}, (("Z", 5),), (H, W, 1)),
        ((5, H, W), {"compression": "zlib", "tile": (32, 32)}, (("Z", 5),), (H, W, 1)),
    ],
)
def test_axes(tmp_path, shape, written, axes, one):
    if written.get("imagej"):
        written = {**written, "metadata": {"axes": "TZCYX"}}
    image = pixels(shape)
    tifffile.imwrite(tmp_path / "a.tif", image, photometric="minisblack", **written)
    with TiffWindows(tmp_path / "a.tif", channels=9) as file:
        assert file.axes == axes
        assert set(file.shapes) == {one}
        planes = image.reshape(-1, one[2], H, W)
        for number in range(len(file)):
            window = file.page(number).read(slice(3, 50), slice(2, 60))
            np.testing.assert_array_equal(window, np.moveaxis(planes[number], 0, -1)[3:50, 2:60])


def test_many_planes_behind_one_entry(tmp_path):
    """ImageJ's form of stacks beyond 4 GB: one directory entry, the planes one after another."""
    image = pixels((4, H, W), "uint16")
    tifffile.imwrite(tmp_path / "a.tif", image, imagej=True)
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        assert len(file.pages) > 1
        first = file.pages.first
        at = first.offset + 2 + 12 * len(first.tags)  # where the first entry points to the next
    data = bytearray((tmp_path / "a.tif").read_bytes())
    data[at : at + 4] = b"\0\0\0\0"
    (tmp_path / "b.tif").write_bytes(data)
    with tifffile.TiffFile(tmp_path / "b.tif") as file:
        assert len(file.pages) == 1
    assert check(tmp_path / "b.tif")[0] > 1


@pytest.mark.parametrize("compression", ["tiff_lzw", "packbits", "jpeg", "group4"])
def test_what_tifffile_cannot_decode_alone(tmp_path, compression):
    image = Image.fromarray(pixels((H, W)))
    image = image.convert("1") if compression == "group4" else image
    image.save(tmp_path / "a.tif", compression=compression)
    check(tmp_path / "a.tif")


def test_palette(tmp_path):
    Image.fromarray(pixels((H, W, 3))).quantize(16).save(tmp_path / "a.tif")
    check(tmp_path / "a.tif")


def test_only_the_tiles_of_a_window_are_read(tmp_path):
    """Zeros in place of all other tiles, which can't be decompressed, go unnoticed."""
    image = pixels((128, 128))
    tifffile.imwrite(tmp_path / "a.tif", image, tile=(32, 32), compression="zlib")
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        places = list(zip(file.pages[0].dataoffsets, file.pages[0].databytecounts, strict=True))
    data = bytearray((tmp_path / "a.tif").read_bytes())
    for number, (offset, count) in enumerate(places):
        if number not in (5, 6):  # second row, middle
            data[offset : offset + count] = bytes(count)
    (tmp_path / "a.tif").write_bytes(data)
    with TiffWindows(tmp_path / "a.tif") as file:
        page = file.page(0)
        window = page.read(slice(33, 63), slice(40, 90))
        np.testing.assert_array_equal(window[..., 0], image[33:63, 40:90])
        with pytest.raises(DataError, match="truncated or damaged"):
            page.read(slice(33, 65), slice(40, 90))


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_a_file_that_is_cut_off(tmp_path, layout):
    image = np.random.default_rng(0).integers(0, 255, (H, W), np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", image, **layout)
    data = (tmp_path / "a.tif").read_bytes()
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        end = max(file.pages[0].dataoffsets)
    (tmp_path / "a.tif").write_bytes(data[: end + 20])
    with (
        pytest.raises(DataError, match="truncated|damaged"),
        TiffWindows(tmp_path / "a.tif") as file,
    ):
        file.page(0).read(slice(0, H), slice(0, W))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_windows_are_of_the_image_as_displayed(tmp_path, orientation):
    turned = [(274, 3, 1, orientation, True)]
    for layout in LAYOUTS:
        for shape, more in (
            ((H, W), {"photometric": "minisblack"}),
            ((H, W, 3), {"photometric": "rgb"}),
            ((3, H, W), {"photometric": "rgb", "planarconfig": "separate"}),
        ):
            tifffile.imwrite(tmp_path / "a.tif", pixels(shape), extratags=turned, **more, **layout)
            check(tmp_path / "a.tif")
            with TiffWindows(tmp_path / "a.tif") as file:
                assert file.shapes[0][:2] == ((W, H) if orientation >= 5 else (H, W))
