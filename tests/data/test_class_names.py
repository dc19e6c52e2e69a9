"""`classes.txt` beside the data: where it may lie, what it may hold, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from keras_unet.data import find_class_names, find_pairs
from keras_unet.data.class_names import read_class_names
from keras_unet.errors import ConfigError, DataError
from keras_unet.training import plan

NAMES = ("background", "myelin sheath", "Axon ø")
TEXT = "\n".join(NAMES)


@pytest.fixture
def data(tmp_path):
    """Images and labels of three classes."""
    rng = np.random.default_rng(0)
    for kind in ("images", "labels"):
        (tmp_path / "data" / kind).mkdir(parents=True)
    for name in "abcd":
        labels = np.kron(rng.integers(0, 3, (4, 5)), np.ones((16, 16))).astype(np.uint8)
        Image.fromarray(60 * labels).save(tmp_path / "data" / "images" / f"{name}.png")
        Image.fromarray(labels).save(tmp_path / "data" / "labels" / f"{name}.png")
    return tmp_path / "data"


@pytest.mark.parametrize(
    "content",
    [
        TEXT.encode(),
        f"{TEXT}\n".encode(),
        TEXT.replace("\n", "\r\n").encode("utf-8-sig"),
        f"\n  {TEXT}\t\r\n\r\n \n".replace("sheath\n", "sheath \r\n\n").encode(),
    ],
)
def test_whatever_ends_its_lines(tmp_path, content):
    (tmp_path / "classes.txt").write_bytes(content)
    assert read_class_names(tmp_path / "classes.txt", 3) == NAMES


@pytest.mark.parametrize(
    ("content", "error", "said"),
    [
        (b"", DataError, r"names 0 classes \(no name\); expected 3, as the labels have"),
        (b"cell\naxon", DataError, r"names 2 classes \(cell, axon\); expected 3, .* first"),
        (b"a\nb\nc\nd", DataError, r"names 4 classes .*expected 3.*data\.num_classes"),
        (b"a\nb\na", DataError, "names a more than once; expected different names"),
        (TEXT.encode("utf-16"), ConfigError, "is UTF-16; expected text in UTF-8"),
        (TEXT.encode("latin-1"), ConfigError, r"is no UTF-8 \(byte 0xf8"),
    ],
)
def test_what_is_wrong_is_said(tmp_path, content, error, said):
    (tmp_path / "classes.txt").write_bytes(content)
    with pytest.raises(error, match=rf"classes\.txt: {said}"):
        find_class_names(tmp_path, count=3)


@pytest.mark.parametrize("folder", [".", "images", "labels"])
def test_it_may_lie_with_images_with_labels_and_above(data, folder):
    (data / folder / "classes.txt").write_text(TEXT, encoding="utf-8")
    first = data / "images" / "a.png", data / "labels" / "a.png"
    for where in ((data,), (data / "images", data / "labels"), first):
        found = find_class_names(*where, count=3)
        assert found.names == NAMES and found.path == data / folder / "classes.txt"
    assert not find_pairs(data).notes  # it is no entry that was left out
    assert find_class_names(data.parent, count=3) is None


def test_records_and_stacks(tmp_path):
    (tmp_path / "classes.txt").write_text(TEXT, encoding="utf-8")
    (tmp_path / "a.tfrecord").write_bytes(b"")
    for where in (tmp_path, tmp_path / "a.tfrecord", tmp_path / "*.tfrecord"):
        assert find_class_names(where, count=3).names == NAMES
    assert find_class_names(tmp_path / "a.tif", tmp_path / "b.tif", count=3).names == NAMES


def test_two_files_must_agree(data):
    for folder in ("images", "labels"):
        (data / folder / "classes.txt").write_text(TEXT, encoding="utf-8")
    assert find_class_names(data, count=3).names == NAMES
    (data / "images" / "classes.txt").write_text("a\nb\nc")
    with pytest.raises(DataError, match=r"images.classes\.txt: names .* a, b, c, but .*labels"):
        find_class_names(data, count=3)


def test_a_plan_takes_them_and_says_so(data):
    (data / "labels" / "classes.txt").write_text(TEXT, encoding="utf-8")
    made = plan(data)
    assert made.config.data.class_names == NAMES
    (line,) = (line for line in made.to_text().splitlines() if "class_names" in line)
    assert NAMES[2] in line and str(data / "labels" / "classes.txt") in line
    given = plan(data, settings={"data": {"class_names": ["a", "b", "c"]}})
    assert given.config.data.class_names == ("a", "b", "c")
    assert "classes.txt" not in given.to_text()
    (data / "labels" / "classes.txt").write_text("myelin\naxon")
    with pytest.raises(DataError, match="names 2 classes"):
        plan(data)
