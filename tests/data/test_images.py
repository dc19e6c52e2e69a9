"""Image and label files: what is read from each kind, and what is refused with which words."""

from __future__ import annotations

import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from keras_unet.data.images import ImageFile, count_pages, open_windows, read_image, read_labels
from keras_unet.errors import DataError

RNG = np.random.default_rng(3)
RGB = RNG.integers(0, 255, (20, 31, 3)).astype(np.uint8)
GREY16 = RNG.integers(0, 65535, (20, 31)).astype(np.uint16)


def _save(array, path, **options):
    Image.fromarray(array).save(path, **options)
    return path


def _sixteen_bit_png(path: Path, array: np.ndarray) -> Path:
    """Writes uint16 [H, W, 1..4] as PNG with 16 bits a channel, which Pillow cannot."""
    height, width, channels = array.shape
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    )
    body = b"".join(
        struct.pack(">I", len(data)) + tag + data + struct.pack(">I", zlib.crc32(tag + data))
        for tag, data in chunks
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    return path


def test_grey_png_of_8_and_16_bits(tmp_path):
    for array in (RGB[..., 0], GREY16):
        out = read_image(_save(array, tmp_path / "a.png"))
        assert out.dtype == array.dtype and out.shape == (20, 31, 1)
        np.testing.assert_array_equal(out[..., 0], array)


def test_rgb_png_and_jpeg(tmp_path):
    np.testing.assert_array_equal(read_image(_save(RGB, tmp_path / "a.png")), RGB)
    out = read_image(_save(RGB, tmp_path / "a.jpg", quality=95))
    assert out.shape == RGB.shape and out.dtype == np.uint8
    assert read_image(_save(RGB[..., 0], tmp_path / "g.JPG")).shape == (20, 31, 1)


def test_one_bit_png_becomes_0_and_255(tmp_path):
    mask = GREY16 > 30000
    path = _save(mask, tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(path)[..., 0], mask * 255)
    np.testing.assert_array_equal(read_labels(path), mask * 255)


def test_palette_png_gives_colours_as_image_and_indices_as_labels(tmp_path):
    indices = RNG.integers(0, 3, (20, 31)).astype(np.uint8)
    colours = np.array([[0, 0, 0], [200, 30, 5], [9, 99, 240]], np.uint8)
    picture = Image.fromarray(indices)
    picture.putpalette(colours.ravel().tolist())
    picture.save(tmp_path / "a.png")
    assert Image.open(tmp_path / "a.png").mode == "P"
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), colours[indices])
    np.testing.assert_array_equal(read_labels(tmp_path / "a.png"), indices)


def test_opaque_alpha_is_dropped_and_a_transparent_one_refused(tmp_path):
    opaque = np.dstack([RGB, np.full((20, 31), 255, np.uint8)])
    np.testing.assert_array_equal(read_image(_save(opaque, tmp_path / "a.png")), RGB)
    grey = _save(opaque[..., [0, 3]], tmp_path / "g.png")
    assert Image.open(grey).mode == "LA" and read_image(grey).shape == (20, 31, 1)
    opaque[0, 0, 3] = 7
    with pytest.raises(
        DataError, match=r"a\.png: is partly transparent \(opacity down to 7 of 255"
    ):
        read_image(_save(opaque, tmp_path / "a.png"))


def test_photographs_come_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90° clockwise
    flat = np.repeat(np.arange(16, dtype=np.uint8)[:, None] * 15, 32, 1)
    path = _save(flat, tmp_path / "a.jpg", exif=exif, quality=100)
    out = read_image(path)[..., 0].astype(int)
    assert out.shape == (32, 16)
    assert abs(out - np.rot90(flat, -1)).max() <= 3


def test_sixteen_bit_colour_png_is_refused_rather_than_cut_to_8_bits(tmp_path):
    for channels in (2, 3, 4):
        path = _sixteen_bit_png(tmp_path / "deep.png", np.repeat(GREY16[..., None], channels, 2))
        with pytest.raises(DataError, match=r"deep\.png: is a PNG with 16 bits .* TIFF for 16-bit"):
            read_image(path)
    path = _sixteen_bit_png(tmp_path / "grey.png", GREY16[..., None])
    np.testing.assert_array_equal(read_image(path)[..., 0], GREY16)


def test_the_content_decides_not_the_name(tmp_path):
    Image.fromarray(GREY16).save(tmp_path / "a.png", format="TIFF")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png")[..., 0], GREY16)


def test_labels_from_grey_saved_as_rgb(tmp_path):
    labels = RNG.integers(0, 3, (9, 8)).astype(np.uint8)
    out = read_labels(_save(np.repeat(labels[..., None], 3, 2), tmp_path / "a.png"))
    assert out.dtype == np.int32 and out.shape == (9, 8)
    np.testing.assert_array_equal(out, labels)


def test_coloured_labels_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"a\.png: .*3 channels that differ .*save class num"):
        read_labels(_save(RGB, tmp_path / "a.png"))


def test_float_labels(tmp_path):
    whole = RNG.integers(0, 70000, (9, 8)).astype(np.float32)
    np.testing.assert_array_equal(read_labels(_save(whole, tmp_path / "a.tif")), whole)
    whole[2, 3] += 0.5
    with pytest.raises(DataError, match=r"a\.tif: holds 1 labels that are not whole numbers"):
        read_labels(_save(whole, tmp_path / "a.tif"))
    whole[2, 3] = np.nan
    with pytest.raises(DataError, match=r"a\.tif: holds NaN or infinite labels; expected integers"):
        read_labels(_save(whole, tmp_path / "a.tif"))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", r"is empty \(0 bytes\); expected an image"),
        (b"just some text, no image", "is not a PNG, JPEG or TIFF file"),
    ],
)
def test_no_image(tmp_path, content, words):
    path = tmp_path / "bad.png"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"bad\.png: " + words):
        read_image(path)


def test_missing_file(tmp_path):
    with pytest.raises(DataError, match=r"none\.png: cannot be opened \(No such file"):
        read_image(tmp_path / "none.png")


@pytest.mark.parametrize("suffix", ["png", "jpg"])
@pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
def test_truncated(tmp_path, suffix, share):
    path = _save(np.tile(RGB, (4, 4, 1)), tmp_path / f"cut.{suffix}")
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(DataError, match=rf"cut\.{suffix}: truncated or damaged|is not a PNG"):
        read_image(path)


def test_decompression_bomb(tmp_path, monkeypatch):
    path = _save(RGB, tmp_path / "huge.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 300)
    with pytest.raises(DataError, match=r"huge\.png: too large .*expected at most 600 pixels"):
        read_image(path)


def test_pages_of_a_single_image(tmp_path):
    path = _save(RGB, tmp_path / "a.png")
    assert count_pages(path) == 1
    np.testing.assert_array_equal(read_image(path, 0), RGB)
    with pytest.raises(DataError, match=r"a\.png: has no page 1; expected 0 to 0"):
        read_image(path, 1)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif"])
def test_header_and_pixels_come_from_one_opening(tmp_path, name):
    path = _save(RGB, tmp_path / name)
    opened = []

    def hear(event, arguments):
        if event == "open" and str(arguments[0]) == str(path):
            opened.append(event)

    sys.addaudithook(hear)
    with open_windows(path) as file:
        assert list(file.shapes) == [(20, 31, 3)]
        window = file.page(0).read(slice(0, 20), slice(0, 31))
    assert len(opened) == 1
    np.testing.assert_array_equal(window, read_image(path))
    assert len(opened) == 2


@pytest.mark.parametrize("mode", ["1", "L", "LA", "I;16", "P", "RGB", "RGBA"])
def test_a_header_knows_the_channels(tmp_path, mode):
    image = Image.fromarray(RGB).convert("L" if mode == "I;16" else mode)
    image = image.convert("I;16") if mode == "I;16" else image
    image.save(tmp_path / "a.png")
    with ImageFile(tmp_path / "a.png") as file:
        assert file.shape == file.image().shape
