"""Records as a data set: found, read as files are, and every bad one named."""

from __future__ import annotations

import gzip

import numpy as np
import pytest
import tensorflow as tf

from keras_unet.data import LabelRule, load_samples
from keras_unet.data.pairs import find_pairs, find_records
from keras_unet.data.pipeline import border_term, targets
from keras_unet.data.records import encode_example
from keras_unet.data.samples import Border, PairReader
from keras_unet.data.synthetic import write_dataset
from keras_unet.errors import DataError
from keras_unet.evaluation.scoring import LabelledImages

CELLS = LabelRule(kind="instances")


def write(path, records, kind="GZIP"):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path), kind) as writer:
        for record in records:
            writer.write(record)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Folders `images`, `labels` of five cell images."""
    folder = tmp_path_factory.mktemp("cells")
    return write_dataset(folder, train=5, val=1, size=(40, 48), seed=0) / "train"


def encoded(files, **options):
    with PairReader() as reader:
        raws = [reader.read(pair, CELLS) for pair in find_pairs(files)]
    return [encode_example(raw.pair.name, raw.image, raw.labels, **options) for raw in raws]


@pytest.mark.parametrize("kind", ["GZIP", ""])
def test_records_give_the_samples_that_files_give(files, tmp_path, kind):
    records = encoded(files, group="mouse")
    suffix = ".gz" if kind else ".tfrecord"
    write(tmp_path / f"data_tfrecord-00000-of-00003{suffix}", records[3:], kind)
    write(tmp_path / f"data_tfrecord-00001-of-00003{suffix}", records[:3], kind)
    write(tmp_path / f"data_tfrecord-00002-of-00003{suffix}", [], kind)
    expected, report = load_samples(files, rule=CELLS)
    for source in (tmp_path, f"{tmp_path}/data_tfrecord-*"):
        found, same = load_samples(source, rule=CELLS, need_labels=True)
        assert [s.name for s in found] == [s.name for s in expected]
        assert {s.group for s in found} == {"mouse"}
        for a, b in zip(found, expected, strict=True):
            assert a.image.dtype == b.image.dtype
            np.testing.assert_array_equal(a.image, b.image)
            np.testing.assert_array_equal(a.classes, b.classes)
            np.testing.assert_array_equal(a.instances, b.instances)
        assert same.summary == report.summary
        assert same.digests == report.digests
    one = load_samples(tmp_path / f"data_tfrecord-00001-of-00003{suffix}", rule=CELLS)[0]
    assert len(one) == 3


@pytest.mark.parametrize("dtype", ["uint16", "int32", "float32", "uint8"])
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_every_kind_of_image_comes_back_as_it_was(tmp_path, dtype, channels):
    rng = np.random.default_rng(0)
    image = (rng.random((9, 13, channels)) * 200).astype(dtype)
    labels = rng.choice([-1, 0, 3, 70000], (9, 13)).astype(np.int32)
    write(tmp_path / "a.tfrecord", [encode_example("a", image, labels)], "")
    rule = LabelRule(values=(0, 3, 70000), ignore=-1)
    ((sample,), _) = load_samples(tmp_path / "a.tfrecord", rule=rule)
    assert sample.image.dtype == dtype
    np.testing.assert_array_equal(sample.image, image)
    np.testing.assert_array_equal(sample.classes, rule.resolve(labels.flat).classes(labels))


def altered(record, **changes):
    example = tf.train.Example.FromString(record)
    for name, value in changes.items():
        feature = example.features.feature[name.replace("__", "/")]
        feature.Clear()
        (feature.bytes_list if isinstance(value, bytes) else feature.int64_list).value.append(value)
    return example.SerializeToString()


def test_each_bad_record_is_named_by_file_number_and_name(tmp_path):
    image, labels = np.arange(20, dtype=np.uint8).reshape(4, 5, 1), np.eye(4, 5, dtype=int)
    good = encode_example("good", image, labels)
    nan = encode_example("nan", np.full((4, 5, 1), np.nan, np.float32), labels)
    border = Border(np.ones((4, 5), np.float32), 5.0, 2)
    smaller = encode_example("other", image[:2], labels[:2])
    small = tf.train.Example.FromString(smaller).features.feature["label/encoded"].bytes_list
    bad = {
        "shape": ({"image__height": 9}, "holds an image of shape (4, 5, 1); expected (9, 5, 1)"),
        "torn": ({"image__encoded": b"\x89PNG torn"}, "is not a PNG, JPEG or TIFF file"),
        "raw": ({"image__format": b"raw"}, "raw pixels of"),
        "size": ({"label__encoded": small.value[0]}, "is 2x5 (height x width); expected 4x5"),
        "jpeg": ({"label__encoded": b"\xff\xd8\xff\xe0"}, "is compressed by JPEG"),
        "border": ({"weight__border": b"1234"}, "raw pixels of 4 bytes"),
        "bare": ({"label__encoded": b"", "label__format": b""}, "has no labels"),
    }
    records = [good, nan]
    for name, (changes, _) in bad.items():
        own = border if name == "border" else None
        records.append(altered(encode_example(name, image, labels, border=own), **changes))
    write(tmp_path / "cells.gz", [*records, good, b"\xff\xff no example"])
    with pytest.raises(DataError) as error:
        load_samples(tmp_path / "cells.gz")
    lines = str(error.value).splitlines()
    for number, (name, (_, said)) in enumerate(bad.items(), 2):
        (line,) = [line for line in lines if f"cells.gz:{number:03d} ({name})" in line]
        assert said in line
    assert any("cells.gz:001 (nan)" in line and "holds no measured pixel" in line for line in lines)
    doubled = f"cells.gz:{len(records):03d} (good): has the same name as {tmp_path}/cells.gz:000"
    assert any(doubled in line for line in lines)
    assert any(f"cells.gz:{len(records) + 1:03d} (): is no tf.Example" in line for line in lines)


def test_a_truncated_file_is_told(files, tmp_path):
    write(tmp_path / "cut.gz", encoded(files))
    whole = (tmp_path / "cut.gz").read_bytes()
    (tmp_path / "cut.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"cut\.gz:00\d.*is truncated or damaged"):
        load_samples(tmp_path, rule=CELLS)


def test_what_holds_no_records_is_not_taken_for_records(files, tmp_path):
    assert find_records(files) is None
    assert find_records(files / "images") is None
    assert find_records(tmp_path / "nowhere") is None
    write(files.parent / "mixed" / "a.tfrecord", [b"\n"])
    (files.parent / "mixed" / "b.png").write_bytes(b"")
    assert find_records(files.parent / "mixed") is None  # images go before
    (tmp_path / "notes.txt").write_text("hello, this is no record")
    (tmp_path / "zipped.gz").write_bytes(gzip.compress(b"neither is this a record"))
    assert find_records(tmp_path) is None
    write(tmp_path / "good.gz", [encode_example("a", np.zeros((4, 4, 1), np.uint8))])
    found = find_records(tmp_path)
    assert [path.name for path in found.files] == ["good.gz"]
    assert "2 other files left out: notes.txt, zipped.gz" in found.notes[0]
    for pattern, said in (("*.txt", "matches .*notes.txt"), ("x*", "matches no file")):
        with pytest.raises(DataError, match=f"{said}; expected TFRecord files"):
            find_records(tmp_path / pattern)
    with pytest.raises(DataError, match="records hold their labels"):
        load_samples(tmp_path / "good.gz", files / "labels")


def test_a_stored_border_term_is_used_where_it_fits(files, tmp_path, monkeypatch):
    samples, _ = load_samples(files, rule=CELLS)
    with PairReader() as reader:
        raws = [reader.read(pair, CELLS) for pair in find_pairs(files)]
    borders = [Border(border_term(sample, 3.3, 2), 3.3, 2) for sample in samples]
    assert max(border.weights.max() for border in borders) > 0.5
    records = [
        encode_example(raw.pair.name, raw.image, raw.labels, border=border)
        for raw, border in zip(raws, borders, strict=True)
    ]
    write(tmp_path / "b.gz", records)
    found, _ = load_samples(tmp_path, rule=CELLS)
    expected = targets(samples, 2, w0=7.0, sigma=3.3)
    other = targets(samples, 2, w0=7.0, sigma=4.0)
    computed = targets(found, 2, w0=7.0, sigma=4.0)  # stored for another sigma
    monkeypatch.setattr("keras_unet.data.pipeline.border_weights", None)  # must not be called
    stored = targets(found, 2, w0=7.0, sigma=3.3)
    for many, few in ((stored, expected), (computed, other)):
        for a, b in zip(many, few, strict=True):
            np.testing.assert_array_equal(a.weight, b.weight)
            np.testing.assert_array_equal(a.classes, b.classes)
    with pytest.raises(TypeError):  # other separation: computed anew
        targets(found, 2, w0=7.0, sigma=3.3, separation=4)


def test_records_are_scored_one_after_the_other(files, tmp_path):
    write(tmp_path / "a.gz", encoded(files))
    images = LabelledImages(tmp_path, None, CELLS, 1)
    assert len(images) == 5
    expected, _ = load_samples(files, rule=CELLS)
    for sample, other in zip(images, expected, strict=True):
        np.testing.assert_array_equal(sample.instances, other.instances)
    with pytest.raises(DataError, match=r"a\.gz:000 \(.*\): has 1 channels"):
        LabelledImages(tmp_path, None, CELLS, 3)
