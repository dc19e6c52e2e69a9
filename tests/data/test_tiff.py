"""TIFF files: pages, colour layouts, compressions, and files that are cut off or lie."""

from __future__ import annotations

import logging
import threading

import numpy as np
import pytest
import tifffile
from PIL import Image

from keras_unet.data.images import count_pages, read_image, read_labels
from keras_unet.data.tiff import TiffStack
from keras_unet.errors import DataError

RNG = np.random.default_rng(4)
STACK = RNG.integers(0, 60000, (7, 24, 33)).astype(np.uint16)
COLOUR = RNG.integers(0, 255, (4, 24, 33, 3)).astype(np.uint8)
PLANAR = np.moveaxis(COLOUR, -1, 1)


def test_a_torn_file_does_not_condemn_what_other_threads_read(tmp_path, monkeypatch):
    """tifffile only logs that a file is torn, and its log is that of the whole process."""
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, STACK, photometric="minisblack")
    opened = tifffile.TiffFile

    def beside(*given, **more):
        said = ("<TiffPages> invalid page offset 99",)
        other = threading.Thread(target=logging.getLogger("tifffile").warning, args=said)
        other.start()
        other.join()
        return opened(*given, **more)

    monkeypatch.setattr(tifffile, "TiffFile", beside)
    assert count_pages(path) == len(STACK)


@pytest.mark.parametrize(
    "dtype", [np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int32, np.float32]
)
def test_stored_dtypes_round_trip(tmp_path, dtype):
    array = (RNG.random((24, 33)) * 100).astype(dtype)
    tifffile.imwrite(tmp_path / "a.tif", array)
    out = read_image(tmp_path / "a.tif")
    assert out.dtype == dtype and out.shape == (24, 33, 1)
    np.testing.assert_array_equal(out[..., 0], array)


def test_float64_becomes_float32_and_complex_is_refused(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.full((3, 4), 0.1))
    assert read_image(tmp_path / "a.tif").dtype == np.float32
    tifffile.imwrite(tmp_path / "c.tif", np.zeros((3, 4), np.complex64))
    with pytest.raises(DataError, match=r"c\.tif: holds complex64 pixels; expected integers"):
        read_image(tmp_path / "c.tif")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"metadata": None},
        {"imagej": True, "metadata": {"axes": "ZYX"}},
        {"imagej": True},  # axes CYX: too many for channels
        {"truncate": True},  # one entry for all planes
        {"bigtiff": True, "byteorder": ">"},
        {"tile": (16, 16)},
        {"compression": "zlib", "predictor": True},
        {"rowsperstrip": 5},
    ],
    ids=str,
)
def test_stacks_are_read_by_the_page(tmp_path, options):
    path = tmp_path / "stack.tif"
    tifffile.imwrite(path, STACK, **options)
    assert count_pages(path) == 7
    for page in (0, 3, 6):
        out = read_image(path, page)
        assert out.dtype.itemsize == 2 and out.shape == (24, 33, 1)
        np.testing.assert_array_equal(out[..., 0], STACK[page])
    with pytest.raises(DataError, match=r"stack\.tif: holds 7 pages; expected a single image"):
        read_image(path)
    with pytest.raises(DataError, match=r"stack\.tif: has no page 7; expected 0 to 6 \(7 in all\)"):
        read_labels(path, 7)


@pytest.mark.parametrize(
    ("array", "options"),
    [
        (COLOUR, {}),
        (COLOUR, {"truncate": True}),
        (COLOUR, {"metadata": None}),
        (PLANAR, {"planarconfig": "separate"}),
        (PLANAR, {"planarconfig": "separate", "metadata": None}),
    ],
)
def test_colour_interleaved_and_planar(tmp_path, array, options):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, array, photometric="rgb", **options)
    assert count_pages(path) == 4
    np.testing.assert_array_equal(read_image(path, 2), COLOUR[2])
    tifffile.imwrite(path, array[1], photometric="rgb", **options)
    np.testing.assert_array_equal(read_image(path), COLOUR[1])


def test_sixteen_bit_colour_keeps_its_bits(tmp_path):
    deep = RNG.integers(0, 65535, (9, 8, 3)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", deep, photometric="rgb")
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), deep)


def test_channels_of_a_hyperstack_are_channels(tmp_path):
    zcyx = STACK[:6].reshape(2, 3, 24, 33)
    tifffile.imwrite(tmp_path / "ij.tif", zcyx, imagej=True, metadata={"axes": "ZCYX"})
    tifffile.imwrite(tmp_path / "x.ome.tif", zcyx.swapaxes(0, 1), metadata={"axes": "CZYX"})
    for name in ("ij.tif", "x.ome.tif"):
        assert count_pages(tmp_path / name) == 2
        out = read_image(tmp_path / name, 1)
        np.testing.assert_array_equal(out, np.moveaxis(zcyx[1], 0, -1))


def test_pages_of_unequal_size(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for height in (5, 8):
            writer.write(np.full((height, 6), height, np.uint8), metadata=None)
    assert count_pages(tmp_path / "a.tif") == 2
    assert read_image(tmp_path / "a.tif", 1).shape == (8, 6, 1)


@pytest.mark.parametrize("array", [STACK[0], COLOUR[0], STACK[0].astype(np.float32)], ids=str)
def test_lzw_is_read_without_extra_packages(tmp_path, array):
    Image.fromarray(array).save(tmp_path / "a.tif", compression="tiff_lzw")
    out = read_image(tmp_path / "a.tif")
    assert out.dtype == array.dtype
    np.testing.assert_array_equal(out.reshape(array.shape), array)


def test_lzw_pages(tmp_path):
    first, *rest = [Image.fromarray(page) for page in STACK]
    first.save(tmp_path / "a.tif", compression="tiff_lzw", save_all=True, append_images=rest)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif", 5)[..., 0], STACK[5])


def test_palette(tmp_path):
    indices = RNG.integers(0, 3, (9, 8)).astype(np.uint8)
    colours = RNG.integers(0, 255, (3, 256)).astype(np.uint16)
    tifffile.imwrite(
        tmp_path / "a.tif", indices, photometric="palette", colormap=colours * np.uint16(257)
    )
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), colours.T[indices])
    np.testing.assert_array_equal(read_labels(tmp_path / "a.tif"), indices)


@pytest.mark.parametrize("compression", [None, "group4"])
def test_one_bit_is_as_it_looks(tmp_path, compression):
    mask = STACK[0] > 30000
    Image.fromarray(mask).save(tmp_path / "a.tif", compression=compression)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif")[..., 0], mask * 255)


def test_alpha(tmp_path):
    array = np.dstack([COLOUR[0], np.full((24, 33), 255, np.uint8)])
    options = {"photometric": "rgb", "extrasamples": ["unassalpha"]}
    tifffile.imwrite(tmp_path / "a.tif", array, **options)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), COLOUR[0])
    array[3, 3, 3] = 0
    tifffile.imwrite(tmp_path / "a.tif", array, **options)
    with pytest.raises(DataError, match=r"a\.tif: is partly transparent"):
        read_image(tmp_path / "a.tif")


def test_a_stack_cut_off_is_told_and_not_read_short(tmp_path):
    path = tmp_path / "cut.tif"
    tifffile.imwrite(path, STACK, metadata=None)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match=r"cut\.tif: truncated: it names a page .*beyond its end"):
        count_pages(path)
    assert not logging.getLogger("tifffile").handlers[1:], "the log handler was left behind"


@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}, {"rowsperstrip": 4}], ids=str)
@pytest.mark.parametrize("share", [0.02, 0.3, 0.7])
def test_a_page_cut_off(tmp_path, options, share):
    path = tmp_path / "cut.tif"
    tifffile.imwrite(path, STACK[0], metadata=None, **options)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(DataError, match=r"cut\.tif: .*(truncated|damaged)"):
        read_image(path)


def test_a_header_that_claims_too_much(tmp_path):
    path = tmp_path / "bomb.tif"
    tifffile.imwrite(path, np.zeros((16, 16), np.uint8), compression="zlib")
    with tifffile.TiffFile(path, mode="r+") as file:
        for tag in ("ImageWidth", "ImageLength"):
            file.pages[0].tags[tag].overwrite(60000)
    with pytest.raises(DataError, match=r"bomb\.tif: claims a page of 3\.4 GiB in a file of \d+ b"):
        read_image(path)


def test_a_lone_channel_axis_is_channels_up_to_six(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", STACK[:6], imagej=True, metadata={"axes": "CYX"})
    assert read_image(tmp_path / "a.tif").shape == (24, 33, 6)


def test_jpeg_inside_is_known_to_be_lossy(tmp_path):
    Image.fromarray(COLOUR[0]).save(tmp_path / "a.tif", compression="jpeg")
    tifffile.imwrite(tmp_path / "b.tif", COLOUR[0])
    with TiffStack(tmp_path / "a.tif") as lossy, TiffStack(tmp_path / "b.tif") as exact:
        assert lossy.lossy and not exact.lossy
    assert read_image(tmp_path / "a.tif").shape == (24, 33, 3)


@pytest.mark.parametrize(("pages", "words"), [(3, "3 channels that differ"), (4, "transparent")])
def test_pages_that_were_saved_as_colour_are_explained(tmp_path, pages, words):
    planes = RNG.integers(0, 5, (pages, 9, 8)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", planes, photometric="rgb", planarconfig="separate")
    with pytest.raises(DataError, match=rf"a\.tif: .*{words}.*pages of a stack\? save them"):
        read_labels(tmp_path / "a.tif")


def test_damaged_files_never_raise_anything_but_data_errors(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "fuzzed.tif"
    tifffile.imwrite(path, STACK[:3], imagej=True, metadata={"axes": "ZYX"})
    sound = np.frombuffer(path.read_bytes(), np.uint8)
    refused = 0
    for _ in range(120):
        bad = sound.copy()
        bad[rng.integers(0, 400, 3)] = rng.integers(0, 256, 3)
        path.write_bytes(bad.tobytes())
        try:
            read_image(path, count_pages(path) - 1)
        except DataError as error:
            assert "fuzzed.tif" in str(error)
            refused += 1
    assert refused > 20


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("append", [False, True])
def test_pages_written_one_by_one_are_all_read(tmp_path, compression, append):
    pages = np.arange(5 * 12 * 9, dtype=np.uint16).reshape(5, 12, 9)
    path = tmp_path / "stack.tif"
    if append:
        for page in pages:
            tifffile.imwrite(path, page, append=True, compression=compression)
    else:
        with tifffile.TiffWriter(path) as writer:
            for page in pages:
                writer.write(page, compression=compression)
    assert count_pages(path) == 5
    for number, page in enumerate(pages):
        np.testing.assert_array_equal(read_image(path, number)[..., 0], page)
