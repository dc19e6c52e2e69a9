"""Records give back what was put in, and refuse what does not fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from keras_unet.data import LabelRule
from keras_unet.data.records import decode_image, encode_example, features, read_record
from keras_unet.errors import DataError


def back(record, channels):
    """The image as the serving graph reads it, labels and name as training does."""

    @tf.function
    def image(serialized):
        parsed = tf.io.parse_single_example(serialized, features())
        return decode_image(parsed, channels)[0]

    raw = read_record(record, Path("a.tfrecord"), 0, LabelRule(kind="instances"))
    return {
        "image": image(tf.constant(record)).numpy(),
        "labels": raw.labels,
        "name": raw.pair.name,
        "problems": [str(problem) for problem in raw.problems],
    }


def kind(record):
    found = tf.io.parse_single_example(record, features())
    return found["image/format"].numpy(), found["label/format"].numpy()


@pytest.mark.parametrize(
    ("dtype", "channels", "stored"),
    [
        ("uint8", 1, b"png"),
        ("uint8", 3, b"png"),
        ("uint8", 2, b"raw"),
        ("uint16", 1, b"png"),
        ("uint16", 3, b"raw"),
        ("float32", 4, b"raw"),
        ("int32", 1, b"raw"),
    ],
)
def test_images_come_back(dtype, channels, stored):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 250, (9, 13, channels)).astype(dtype)
    if dtype == "uint16":
        image *= 255
    if dtype == "float32":
        image += 0.5
    record = encode_example("cells:003", image)
    assert kind(record) == (stored, b"")
    found = back(record, channels)
    np.testing.assert_array_equal(found["image"], image.astype(np.float32))
    assert found["labels"] is None
    assert found["name"] == "cells:003"
    parsed = tf.io.parse_single_example(record, features())
    assert parsed["image/dtype"].numpy() == dtype.encode()
    shape = [parsed[f"image/{n}"].numpy() for n in ("height", "width", "channels")]
    assert shape == [9, 13, channels]


@pytest.mark.parametrize(
    ("values", "stored"),
    [((0, 255), b"png"), ((0, 65535), b"png"), ((0, 70000), b"raw"), ((-1, 3), b"raw")],
)
def test_labels_come_back(values, stored):
    labels = np.random.default_rng(0).choice(values, (9, 13)).astype(np.int64)
    record = encode_example("a", np.zeros((9, 13, 1), np.uint8), labels)
    assert kind(record) == (b"png", stored)
    np.testing.assert_array_equal(back(record, 1)["labels"], labels)


def test_records_are_the_same_bytes_each_time():
    image = np.arange(20, dtype=np.uint8).reshape(4, 5, 1)
    assert encode_example("a", image, image[..., 0]) == encode_example("a", image, image[..., 0])


def test_what_does_not_fit_is_named():
    image = np.zeros((4, 5, 1), np.uint8)
    with pytest.raises(DataError, match=r"a: image of shape \(4, 5\)"):
        encode_example("a", image[..., 0])
    with pytest.raises(DataError, match=r"labels of shape \(5, 4\); expected \(4, 5\)"):
        encode_example("a", image, np.zeros((5, 4), int))
    with pytest.raises(DataError, match="beyond 2\\^24"):
        encode_example("a", np.full((4, 5, 1), 2**24 + 1, np.uint32))
    with pytest.raises(DataError, match="expected int32"):
        encode_example("a", image, np.full((4, 5), 2**40))


def altered(record, **changes):
    example = tf.train.Example.FromString(record)
    for name, value in changes.items():
        feature = example.features.feature[name.replace("__", "/")]
        feature.Clear()
        if isinstance(value, bytes):
            feature.bytes_list.value.append(value)
        else:
            feature.int64_list.value.append(value)
    return example.SerializeToString()


@pytest.mark.parametrize(
    ("image_type", "changes", "message"),
    [
        ("uint8", {"image__height": 5}, "image of shape"),
        ("uint8", {"image__channels": 3}, "image of shape"),
        ("uint8", {"image__encoded": b"torn"}, "expected a PNG or JPEG file; found 4 bytes"),
        ("float32", {"image__encoded": b"torn"}, "raw pixels of 4 bytes"),
        ("float32", {"image__height": 2**40}, "expected 1 to 67108864"),
        ("float32", {"image__height": 2**32, "image__width": 2**32}, "expected 1 to 67108864"),
        ("float32", {"image__height": 0}, "expected 1 to 67108864"),
        ("float32", {"image__channels": 2**62}, "raw pixels of"),
    ],
)
def test_a_damaged_record_is_an_invalid_argument(image_type, changes, message):
    labels = np.ones((4, 5), np.int32)
    record = altered(encode_example("a", np.ones((4, 5, 1), image_type), labels), **changes)
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        back(record, 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label__format": b"raw", "label__encoded": b"abcd"}, "raw pixels of 4 bytes"),
        ({"label__encoded": b""}, "is not a PNG, JPEG or TIFF file"),
    ],
)
def test_damaged_labels_are_a_problem(changes, message):
    record = encode_example("a", np.ones((4, 5, 1), np.uint8), np.ones((4, 5), np.int32))
    (problem,) = back(altered(record, **changes), 1)["problems"]
    assert message in problem


def test_labels_of_another_size_are_refused():
    one = encode_example("a", np.ones((4, 5, 1), np.uint8), np.ones((4, 5), int))
    other = encode_example("a", np.ones((4, 6, 1), np.uint8), np.ones((4, 6), int))
    labels = tf.io.parse_single_example(other, features())["label/encoded"].numpy()
    (problem,) = back(altered(one, label__encoded=labels), 1)["problems"]
    assert "is 4x6 (height x width); expected 4x5" in problem
