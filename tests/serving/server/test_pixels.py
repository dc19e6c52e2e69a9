"""Sizes are read from headers, and files that only cost time are refused by theirs."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
import toy_models
from PIL import Image
from tensorflow.core.example import example_pb2

from keras_unet.data.records import encode_example
from keras_unet.serving.protocol.codes import Code, Refused
from keras_unet.serving.server.limits import count_pixels, size_of

NOISE = np.random.default_rng(0).integers(0, 255, (40, 56), dtype=np.uint8)
SCAN = b"\xff\xda"


def saved(form, mode="L", **options):
    file = io.BytesIO()
    Image.fromarray(NOISE).convert(mode).save(file, form, **options)
    return file.getvalue()


def refused(data):
    with pytest.raises(Refused) as caught:
        size_of(data)
    assert caught.value.code is Code.INVALID_ARGUMENT
    return caught.value.message


@pytest.mark.parametrize(
    ("form", "options"),
    [
        ("PNG", {}),
        ("JPEG", {}),
        ("JPEG", {"progressive": True, "mode": "RGB"}),
        ("JPEG", {"restart_marker_blocks": 1}),
        ("JPEG", {"icc_profile": SCAN * 40_000, "comment": SCAN * 500}),
        ("GIF", {}),
        ("BMP", {}),
    ],
)
def test_sizes_are_read_from_headers(form, options):
    data = saved(form, **options)
    assert size_of(data) == (40, 56)
    assert size_of(data + SCAN * 1000) == (40, 56)  # a film after the photograph


def test_what_is_no_image_has_no_size():
    assert size_of(b"tf.Example") is None and size_of(b"") is None


def test_an_image_from_the_top_has_its_size():
    data = bytearray(saved("BMP"))
    data[22:26] = struct.pack("<i", -40)
    assert size_of(bytes(data)) == (40, 56)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "BMP"])
def test_a_header_that_is_cut_is_refused_or_no_image(form):
    data = saved(form)
    for length in range(24):
        try:
            size_of(data[:length])
        except Refused as error:
            assert error.code is Code.INVALID_ARGUMENT


def test_a_jpeg_of_endless_scans_is_refused():
    """A hundred bytes each, and a walk over all pixels: hours in a file of 64 MiB."""
    data = saved("JPEG", progressive=True)
    last = data.rindex(SCAN)
    assert data.count(SCAN) == 6
    scan, end = data[last:-2], data[-2:]
    many = data[:last] + scan * 90 + end
    assert size_of(many) == (40, 56)
    assert refused(data[:last] + scan * 101 + end) == "JPEG file of more than 100 scans"
    hidden = b"\xff\xff" + scan[1:]  # a fill byte before each marker
    assert "100 scans" in refused(data[:last] + hidden * 101 + end)


@pytest.mark.parametrize(
    "part", [b"\xff", b"\xff\xe5\0\2", b"\xff\xe5\0\0", b"\xff\x01", b"\xff\xd0"]
)
def test_a_jpeg_of_endless_segments_is_refused(part):
    data = saved("JPEG")
    assert size_of(data[:2] + part * 1000 + data[2:]) == (40, 56)
    assert "more than 32768 segments" in refused(data[:2] + part * 33_000 + data[2:])


def test_a_png_of_endless_chunks_is_refused():
    data = saved("PNG")
    chunk = struct.pack(">I", 0) + b"zzZz" + b"\0" * 4
    assert size_of(data[:33] + chunk * 9000 + data[33:]) == (40, 56)
    assert "more than 32768 chunks" in refused(data[:33] + chunk * 33_000 + data[33:])
    forever = data[:33] + struct.pack(">I", 2**32 - 1) + data[37:]
    assert size_of(forever) == (40, 56)


def total(*examples, most=10_000):
    return count_pixels({"examples": np.array([*examples, None], object)[:-1]}, most)


def test_images_in_examples_count_too():
    labels = (NOISE[..., None] > 99).astype(np.int32)[..., 0]
    one = encode_example("a", NOISE[..., None], labels)
    assert total(one) == 40 * 56  # its label is as large, and not another image
    assert total(one, one) == 2 * 40 * 56
    assert total(encode_example("a", NOISE[..., None].astype(np.float32))) == 0  # see `count`
    assert total(b"no \xff\xd8\xff example") == 0
    with pytest.raises(Refused) as caught:
        total(encode_example("a", np.zeros((101, 100, 1), np.uint8)))
    assert caught.value.http_status == 413
    whole = saved("JPEG", progressive=True)
    scan = whole[whole.rindex(SCAN) : -2]
    hidden = example_pb2.Example()
    hidden.features.feature["image/encoded"].bytes_list.value.append(whole[:-2] + scan * 101)
    with pytest.raises(Refused, match="100 scans"):
        total(hidden.SerializeToString())


def test_numbers_count_and_too_many_are_refused():
    images = {"a": np.zeros((2, 3, 4, 1), "f")}
    assert count_pixels(images, 24) == 24
    with pytest.raises(Refused) as caught:
        count_pixels(images, 23)
    assert caught.value.code is Code.RESOURCE_EXHAUSTED and caught.value.http_status == 413
    assert total(toy_models.png(10, 20), toy_models.png(3, 3)) == 209
