"""PNG and JPEG: every depth, palette and orientation, whatever metadata; here and in a graph."""

from __future__ import annotations

import io
import struct
import zlib

import imagecodecs
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_unet.data.graph_images import decode
from keras_unet.data.images import ImageFile, read_image, read_labels
from keras_unet.errors import DataError

H, W = 11, 19
RNG = np.random.default_rng(5)
SMOOTH = np.asarray(
    Image.fromarray(RNG.integers(0, 255, (6, 8, 3)).astype(np.uint8)).resize((80, 56))
)
SCALAR = [tf.TensorSpec([], tf.string)]
grey = tf.function(lambda data: decode(data, 1)[0], input_signature=SCALAR, autograph=False)
colour = tf.function(lambda data: decode(data, 3)[0], input_signature=SCALAR, autograph=False)
DISPLAYED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, 1),
}


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(values, bits, *, palette=None, before=b"", after=b""):
    """A PNG of int values [H, W], 1 to 16 bits each, grey or indices of a palette [N, 3]."""
    digits = values[..., None] >> np.arange(bits - 1, -1, -1) & 1
    rows = [np.packbits(row.ravel().astype(np.uint8)).tobytes() for row in digits]
    kind = 0 if palette is None else 3
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", struct.pack(">IIBBBBB", *values.shape[::-1], bits, kind, 0, 0, 0)),
            before,
            b"" if palette is None else chunk(b"PLTE", palette.astype(np.uint8).tobytes()),
            chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows))),
            after,
            chunk(b"IEND", b""),
        ]
    )


def exif(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags.tobytes()


def jpeg(array=SMOOTH, mode=None, **options):
    file = io.BytesIO()
    Image.fromarray(array, mode).save(file, "JPEG", **{"quality": 97, **options})
    return file.getvalue()


def segments(data, *more):
    """A JPEG with other segments, (marker, body), behind its first marker."""
    added = b"".join(
        bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body for marker, body in more
    )
    return data[:2] + added + data[2:]


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_grey_is_numbers_as_labels_and_levels_as_image(tmp_path, bits):
    path = tmp_path / "a.png"
    values = RNG.integers(0, 2**bits, (H, W))
    values[0, :3] = [0, 1, 2**bits - 1]
    path.write_bytes(png(values, bits))
    levels = values * (255 // (2**bits - 1)) if bits < 8 else values
    np.testing.assert_array_equal(read_image(path)[..., 0], levels)
    np.testing.assert_array_equal(read_labels(path), levels if bits == 1 else values)
    np.testing.assert_array_equal(grey(path.read_bytes())[..., 0], levels)
    with ImageFile(path) as file:
        assert file.palette() is None


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("orientation", DISPLAYED)
def test_a_palette_is_turned_as_image_and_as_labels(tmp_path, bits, orientation):
    path = tmp_path / "a.png"
    values = RNG.integers(0, 2**bits, (H, W))
    palette = RNG.integers(0, 256, (2**bits, 3)).astype(np.uint8)
    told = chunk(b"eXIf", exif(orientation).removeprefix(b"Exif\0\0"))
    for place in ({"before": told}, {"after": told}):
        path.write_bytes(png(values, bits, palette=palette, **place))
        shown = DISPLAYED[orientation](values)
        np.testing.assert_array_equal(read_labels(path), shown)
        np.testing.assert_array_equal(read_image(path), palette[shown])
        np.testing.assert_array_equal(colour(path.read_bytes()), palette[shown])
        assert ImageFile(path).shape == (*shown.shape, 3)
    with ImageFile(path) as file:
        np.testing.assert_array_equal(file.palette(), palette)


@pytest.mark.parametrize("mode", ["1", "L", "I;16", "RGB", "CMYK", "grey JPEG", "JPEG"])
def test_every_orientation_in_every_kind(tmp_path, mode):
    path = tmp_path / "a"
    lossy = "JPEG" in mode or mode == "CMYK"
    picture = {
        "1": lambda: SMOOTH[..., 0] > 120,
        "I;16": lambda: SMOOTH[..., 0].astype(np.uint16) * 200,
        "RGB": lambda: SMOOTH,
        "JPEG": lambda: SMOOTH,
        "CMYK": lambda: np.dstack([SMOOTH, SMOOTH[::-1, :, 0]]),
    }.get(mode, lambda: SMOOTH[..., 0])()
    image = Image.fromarray(picture, "CMYK" if mode == "CMYK" else None)
    image.save(path, "JPEG" if lossy else "PNG", **{"quality": 97} if lossy else {})
    plain = read_image(path)
    for orientation, turn in DISPLAYED.items():
        more = {"quality": 97} if lossy else {}
        image.save(path, "JPEG" if lossy else "PNG", exif=exif(orientation), **more)
        found = read_image(path)
        np.testing.assert_array_equal(found, turn(plain))
        assert ImageFile(path).shape == found.shape
        served = (grey if found.shape[2] == 1 else colour)(path.read_bytes())
        np.testing.assert_array_equal(served, found)
        if not lossy and found.shape[2] == 1:
            np.testing.assert_array_equal(read_labels(path), turn(plain)[..., 0])


LARGE = RNG.bytes(3 << 20)
CHUNKS = {
    "zTXt": b"k\0\0" + zlib.compress(bytes(80 << 20)),  # 80 MB of nothing
    "iTXt": b"k\0\1\0\0\0" + zlib.compress(b"x" * (5 << 20)),
    "iTXt, plain": b"k\0\0\0\0\0" + b"x" * (3 << 20),
    "tEXt": b"k\0" + b"x" * (3 << 20),
    "iCCP": b"k\0\0" + zlib.compress(LARGE),
    "iCCP, damaged": b"k\0\0" + LARGE[:1000],
    "eXIf": LARGE[:70000],
    "acTL": bytes(8),
    "prVt": LARGE[:10],
}


@pytest.mark.parametrize("kind", CHUNKS)
@pytest.mark.parametrize("place", ["before", "after"])
def test_what_else_is_in_a_png_is_passed_over(tmp_path, kind, place):
    path, values = tmp_path / "a.png", RNG.integers(0, 4, (H, W))
    path.write_bytes(png(values, 2, **{place: chunk(kind[:4].encode(), CHUNKS[kind])}))
    np.testing.assert_array_equal(read_labels(path), values)
    np.testing.assert_array_equal(read_image(path)[..., 0], values * 85)
    assert ImageFile(path).shape == (H, W, 1)


@pytest.mark.parametrize(
    "more",
    [
        [(0xE2, b"ICC_PROFILE\0" + bytes([n, 40]) + LARGE[:65000]) for n in range(1, 41)],
        [(0xE2, b"ICC_PROFILE\0\7")],
        [(0xE2, b"MPF\0" + LARGE[:90])],
        [(0xED, b"Photoshop 3.0\08BIM" + LARGE[:400])],
        [(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x tiff:Orientation='6'>" + b" " * 60000)] * 30,
        [(0xE1, b"Exif\0\0" + LARGE[:2000])],
        [(0xFE, LARGE[:60000])] * 20,
        [(0xE5, LARGE[:60000])] * 20,
    ],
    ids=["profile", "broken profile", "MPF", "Photoshop", "XMP", "broken EXIF", "comments", "APP5"],
)
def test_what_else_is_in_a_jpeg_is_passed_over(tmp_path, more):
    path, plain = tmp_path / "a.jpg", jpeg()
    path.write_bytes(plain)
    expected = read_image(path)
    path.write_bytes(segments(plain, *more))
    np.testing.assert_array_equal(read_image(path), expected)
    np.testing.assert_array_equal(colour(path.read_bytes()), expected)


@pytest.mark.parametrize("adobe", [True, False])
@pytest.mark.parametrize("inks", ["CMYK", "YCCK"])
def test_inks_are_read_as_the_exported_graph_reads_them(tmp_path, inks, adobe):
    path = tmp_path / "a.jpg"
    stored = np.dstack([SMOOTH, SMOOTH[::-1, :, 0]])
    data = imagecodecs.jpeg8_encode(stored, level=97, colorspace="CMYK", outcolorspace=inks)
    at = data.index(b"\xff\xee")
    if not adobe:  # so that it is neither inverted nor YCCK, says libjpeg
        data = data[:at] + data[at + 2 + int.from_bytes(data[at + 2 : at + 4], "big") :]
    path.write_bytes(data)
    found = read_image(path)
    np.testing.assert_array_equal(colour(data), found)
    luma = found @ [0.299, 0.587, 0.114]
    assert np.abs(grey(data).numpy()[..., 0] - luma).max() <= 1
    if adobe and inks == "CMYK":
        with Image.open(path) as picture:
            expected = np.asarray(picture.convert("RGB")).astype(int)
        assert np.abs(found - expected).max() <= 1


@pytest.mark.parametrize(
    "options",
    [{"progressive": True}, {"subsampling": 2}, {"keep_rgb": True}, {"restart_marker_blocks": 3}],
    ids=str,
)
def test_kinds_of_jpeg_are_read_the_same(tmp_path, options):
    (tmp_path / "a.jpg").write_bytes(jpeg(**options))
    np.testing.assert_array_equal(colour(jpeg(**options)), read_image(tmp_path / "a.jpg"))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (imagecodecs.ljpeg_encode(SMOOTH[..., 0]), "of 8 bits and 1 components, kind SOF3"),
        (
            imagecodecs.jpeg8_encode(SMOOTH.astype(np.uint16), bitspersample=12),
            "of 12 bits and 3 components, kind SOF",
        ),
    ],
    ids=["lossless", "12 bits"],
)
def test_kinds_of_jpeg_that_few_read_are_named(tmp_path, data, words):
    (tmp_path / "a.jpg").write_bytes(data)
    expected = rf"{words}\d*; expected 8 bits, 1, 3 or 4 components"
    with pytest.raises(DataError, match=rf"a\.jpg: is a JPEG {expected}"):
        read_image(tmp_path / "a.jpg")
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"JPEG {expected}"):
        colour(data)


def test_a_tiff_with_large_metadata(tmp_path):
    values = RNG.integers(0, 255, (H, W)).astype(np.uint8)
    Image.fromarray(values).save(
        tmp_path / "a.tif", compression="tiff_lzw", icc_profile=LARGE, description="x" * (4 << 20)
    )
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif")[..., 0], values)


def test_damaged_files_are_data_errors_and_quiet(tmp_path, recwarn):
    path = tmp_path / "fuzzed"
    sound = [
        png(
            RNG.integers(0, 4, (H, W)), 2, before=chunk(b"eXIf", exif(6).removeprefix(b"Exif\0\0"))
        ),
        jpeg(exif=exif(8)),
        jpeg(np.dstack([SMOOTH, SMOOTH[..., 0]]), "CMYK"),
    ]
    refused = 0
    for _ in range(100):
        for data in map(bytearray, sound):
            for _ in range(3):
                data[RNG.integers(0, min(250, len(data)))] = RNG.integers(0, 256)
            path.write_bytes(data[: RNG.integers(1, len(data)) if RNG.random() < 0.2 else None])
            for read in (read_image, read_labels, lambda path: ImageFile(path).shape):
                try:
                    read(path)
                except DataError as error:
                    assert "fuzzed" in str(error)
                    refused += 1
    assert refused > 60 and not recwarn.list
