"""One image and its labels as a record: what is stored, what is counted, what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from keras_unet.data import LabelRule, find_pairs, load_samples
from keras_unet.data.pipeline import border_term
from keras_unet.data.records import read_record
from keras_unet.data.samples import PairReader
from keras_unet.data.synthetic import write_dataset
from pipelines.examples import ExampleOptions
from pipelines.examples.record import make_record

CELLS = ExampleOptions(rule=LabelRule(kind="instances"))


@pytest.fixture
def folder(tmp_path):
    return write_dataset(tmp_path, train=3, val=1, size=(64, 64), seed=0) / "train"


def raws(folder, rule):
    with PairReader() as reader:
        return [reader.read(pair, rule) for pair in find_pairs(folder)]


def test_a_record_is_the_librarys_reading_bit_for_bit(folder):
    options = ExampleOptions(rule=CELLS.rule, sigma=3.3, separation=1)
    expected, report = load_samples(folder, rule=options.rule)
    for sample, raw in zip(expected, raws(folder, options.rule), strict=True):
        data, problems = make_record(raw, options)
        assert not problems
        back = read_record(data, folder, 0, options.rule)
        assert back.image.dtype == raw.image.dtype
        np.testing.assert_array_equal(back.image, raw.image)
        np.testing.assert_array_equal(back.labels, raw.labels)
        assert (back.digest, back.values) == (raw.digest, raw.values)
        found = back.sample(report.mapping)
        np.testing.assert_array_equal(found.instances, sample.instances)
        np.testing.assert_array_equal(found.border.weights, border_term(sample, 3.3, 1))
        assert found.border.weights.max() > 0.1
        assert (np.float32(found.border.sigma), found.border.separation) == (np.float32(3.3), 1)


def features(data):
    import tensorflow as tf

    found = tf.train.Example.FromString(data).features.feature
    kinds = {key: value.WhichOneof("kind") for key, value in found.items()}
    return {key: list(getattr(found[key], kind).value) for key, kind in kinds.items() if kind}


def written(tmp_path, image, labels):
    for kind, array in (("images", image), ("labels", labels)):
        (tmp_path / kind).mkdir(exist_ok=True)
        Image.fromarray(array).save(tmp_path / kind / "a.png")
    return tmp_path


def test_statistics_are_those_of_the_image(tmp_path):
    image = np.zeros((10, 20), np.uint8)
    image[:, :5] = 200
    labels = np.zeros((10, 20), np.uint8)
    labels[:3, :3], labels[5:, 10:14] = 4, 7
    (raw,) = raws(written(tmp_path, image, labels), CELLS.rule)
    found = features(make_record(raw, CELLS)[0])
    assert found["image/mean"] == [50]
    np.testing.assert_allclose(found["image/std"], image.std(), rtol=1e-6)
    assert (found["image/low"], found["image/high"]) == ([0], [200])
    assert (found["label/values"], found["label/cells"]) == ([0, 1], [2])
    np.testing.assert_allclose(found["label/foreground"], 29 / 200, rtol=1e-6)
    across = 2 * np.sqrt(np.array([9, 20]) / np.pi)
    np.testing.assert_allclose(found["label/diameter"], across.mean(), rtol=1e-6)
    assert found["image/group"] == [b""]

    rule = LabelRule(values=(0, 4), ignore=7)
    (raw,) = raws(tmp_path, rule)
    found = features(make_record(raw, ExampleOptions(rule=rule))[0])
    assert (found["label/values"], found["label/cells"]) == ([0, 4], [1])
    np.testing.assert_allclose(found["label/foreground"], 9 / 180, rtol=1e-6)

    rule = LabelRule(kind="instances", ignore=7)
    (raw,) = raws(written(tmp_path, image, np.where(labels == 4, 0, labels)), rule)
    found = features(make_record(raw, ExampleOptions(rule=rule))[0])
    assert (found["label/values"], found["label/cells"]) == ([0], [0])

    (raw,) = raws(written(tmp_path, image, 0 * labels), CELLS.rule)
    empty = features(make_record(raw, CELLS)[0])
    assert (empty["label/values"], empty["label/cells"]) == ([0], [0])
    assert "label/diameter" not in empty


@pytest.mark.parametrize("value", [1, 255, 7])
def test_the_border_term_does_not_depend_on_how_a_set_is_settled(tmp_path, value):
    """An image's only object in two pieces: in a mask two cells, in numbered labels one."""
    labels = np.zeros((10, 30), np.uint8)
    labels[3:7, 3:9], labels[3:7, 12:18] = value, value
    (raw,) = raws(written(tmp_path, labels, labels), CELLS.rule)
    stored = read_record(make_record(raw, CELLS)[0], tmp_path, 0, CELLS.rule).border
    for found in ({0, value}, {0, 1, 2, 3}):  # of the whole set
        sample = raw.sample(CELLS.rule.resolve(found))
        np.testing.assert_array_equal(stored.weights, border_term(sample, 5.0, 2))
    assert (stored.weights.max() > 0) == (value != 7)


@pytest.mark.parametrize(
    ("rule", "values", "said"),
    [
        (LabelRule(num_classes=2), (0, 2), "holds label values out of range: 2"),
        (LabelRule(values=(0, 5, 9)), (0, 7), "holds label values out of range: 7"),
    ],
)
def test_labels_that_do_not_fit_the_rule_are_bad(tmp_path, rule, values, said):
    labels = np.resize(np.array(values, np.uint8), (8, 8))
    (raw,) = raws(written(tmp_path, labels, labels), rule)
    data, problems = make_record(raw, ExampleOptions(rule=rule))
    assert data is None
    assert f"a.png: {said}" in str(problems[0])


def test_an_image_without_a_pixel_that_counts_is_bad(tmp_path):
    rule = LabelRule(values=(0, 4), ignore=7)
    labels = np.full((8, 8), 7, np.uint8)
    (raw,) = raws(written(tmp_path, labels, labels), rule)
    data, (problem,) = make_record(raw, ExampleOptions(rule=rule))
    assert data is None and "a.png: has no pixel that counts; expected" in str(problem)
