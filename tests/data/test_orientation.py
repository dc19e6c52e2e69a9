"""EXIF orientation in a graph: as `read_image` turns the same files, whatever is in them."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from keras_unet.data import read_image
from keras_unet.data.graph_images import decode, orientation

PICTURE = np.random.default_rng(0).integers(0, 255, (9, 14), dtype=np.uint8)
SCALAR = [tf.TensorSpec([], tf.string)]
decoded = tf.function(lambda data: decode(data, 1)[0], input_signature=SCALAR, autograph=False)
stated = tf.function(orientation, input_signature=SCALAR, autograph=False)


def tiff(*entries, order="<", magic=42, offset=8):
    """A TIFF header and its first directory: (tag, type, number) each."""
    head = {"<": b"II", ">": b"MM"}[order] + struct.pack(order + "HI", magic, offset)
    rows = [
        struct.pack(order + "HHI", tag, kind, 1) + struct.pack(order + {3: "HH", 4: "I"}[kind], *n)
        for tag, kind, *n in (((*e, 0) if e[1] == 3 else e) for e in entries)
    ]
    return head + struct.pack(order + "H", len(rows)) + b"".join(rows) + bytes(4)


def jpeg(exif=b"", before=b""):
    file = io.BytesIO()
    Image.fromarray(PICTURE).save(file, "JPEG", quality=100)
    data = file.getvalue()
    segment = b"Exif\0\0" + exif
    segment = b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment if exif else b""
    return data[:2] + before + segment + data[2:]


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(exif=b"", late=False):
    data = tf.io.encode_png(PICTURE[..., None]).numpy()
    at = len(data) - 12 if late else data.index(b"IDAT") - 4
    return data[:at] + (chunk(b"eXIf", exif) if exif else b"") + data[at:]


def upright(data, path):
    path.write_bytes(data)
    return read_image(path)


@pytest.mark.parametrize("make", [jpeg, png], ids=["jpeg", "png"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_every_orientation_is_as_read_image_has_it(tmp_path, make, order):
    seen = set()
    for number in range(10):
        data = make(tiff((0x0100, 4, 14), (0x0112, 3, number), (0x0128, 3, 2), order=order))
        assert stated(data) == (number if 1 <= number <= 8 else 1)
        found, expected = decoded(data).numpy(), upright(data, tmp_path / "a")
        assert found.shape == (*expected.shape[:2], 1)
        assert np.abs(found.astype(int) - expected).max() <= (1 if make is jpeg else 0)
        seen.add(found.tobytes())
    assert len(seen) == 8


def test_a_number_of_four_bytes_is_read_too(tmp_path):
    for order in "<>":
        data = png(tiff((0x0112, 4, 8), order=order))
        np.testing.assert_array_equal(decoded(data).numpy(), upright(data, tmp_path / "a"))
        assert stated(data) == 8


def test_what_comes_before_and_after_does_not_hide_it(tmp_path):
    six = tiff((0x0112, 3, 6))
    icc = b"\xff\xe2" + struct.pack(">H", 60_000) + bytes(59_998)
    fill = b"\xff\xff\xff"  # a marker may have more of these before it
    other = b"\xff\xe1" + struct.pack(">H", 22) + b"http://ns.adobe.com\0"
    for data in (jpeg(six, icc), jpeg(six, fill), jpeg(six, other), png(six), png(six, late=True)):
        assert stated(data) == 6
        assert decoded(data).shape == upright(data, tmp_path / "a").shape == (14, 9, 1)


def test_files_without_it_stay_as_they_are():
    hidden = PICTURE.tobytes()[:40] + b"eXIfExif\0\0" + tiff((0x0112, 3, 6))
    end = png()[-12:]
    text = png()[:-12] + chunk(b"tEXt", hidden) + end  # the name alone is no such chunk
    for data in (jpeg(), png(), text):
        assert stated(data) == 1 and decoded(data).shape == (9, 14, 1)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data(), st.sampled_from([jpeg, png]))
def test_damaged_exif_is_no_error(data, make):
    exif = bytearray(tiff((0x010E, 4, 7), (0x0112, 3, 6), order=data.draw(st.sampled_from("<>"))))
    for _ in range(data.draw(st.integers(1, 4))):
        exif[data.draw(st.integers(0, len(exif) - 1))] = data.draw(st.integers(0, 255))
    file = make(bytes(exif[: data.draw(st.integers(1, len(exif)))]))
    found = int(stated(file))
    assert 1 <= found <= 8
    assert decoded(file).shape == ((14, 9, 1) if found >= 5 else (9, 14, 1))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**16 - 1) | st.integers(0, 9), st.sampled_from([3, 8]), st.sampled_from("<>")
)
def test_any_number_is_read_as_pillow_reads_it(number, kind, order):
    file = png(
        tiff((0x0112, 3, number), order=order).replace(
            struct.pack(order + "HH", 0x0112, 3), struct.pack(order + "HH", 0x0112, kind)
        )
    )
    with Image.open(io.BytesIO(file)) as picture:
        expected = picture.getexif().get(0x0112)
    assert stated(file) == (expected if 1 <= expected <= 8 else 1)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=60), st.sampled_from([b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b""]))
@example(b"\xff\xe1\xff\xff", b"\xff\xd8")
@example(b"\xff" * 60, b"\xff\xd8")
@example(b"\xff\xff\xff\xffeXIf", b"\x89PNG\r\n\x1a\n")
def test_anything_has_an_orientation(rest, start):
    assert 1 <= int(stated(start + rest)) <= 8
