"""Class and weight maps of a training set."""

from __future__ import annotations

import numpy as np
import pytest

from keras_unet.data.pipeline import scored_classes, targets
from keras_unet.data.samples import Sample
from keras_unet.errors import ConfigError
from keras_unet.weight_maps import weight_map


def touching() -> Sample:
    instances = np.zeros((40, 40), np.int32)
    instances[5:35, 5:20], instances[5:35, 20:35] = 1, 2
    return Sample(
        "pair", np.zeros((40, 40, 1), np.uint8), (instances > 0).astype(np.int32), instances
    )


def test_one_image_gets_the_papers_weight_map():
    sample = touching()
    (made,) = targets([sample], 2)
    expected = weight_map(sample.instances)
    np.testing.assert_allclose(made.weight, expected, atol=1e-3)
    assert made.weight.dtype == np.float32
    assert (made.classes[5:35, 19:21] == 0).all()  # the separating line
    assert made.weight[20, 19] > 9  # w0 at a gap of no width, and the class weight


def test_balance_is_over_the_set():
    sample = touching()
    nothing = np.zeros((40, 40), np.int32)
    empty = Sample("empty", sample.image, nothing, nothing)
    made = targets([sample, empty], 2, w0=0, separation=0)
    cell = 30 * 30
    np.testing.assert_allclose(made[0].weight.max(), 3200 / (2 * cell), rtol=1e-6)
    np.testing.assert_allclose(made[1].weight, 3200 / (2 * (3200 - cell)), rtol=1e-6)
    mean = np.mean([t.weight for t in made])
    np.testing.assert_allclose(mean, 1, rtol=1e-6)


def test_semantic_cells_are_components_and_ignored_pixels_weigh_nothing():
    classes = np.zeros((30, 30), np.int32)
    classes[4:10, 4:26], classes[14:26, 4:26] = 1, 2
    classes[:2] = -1
    sample = Sample("tissue", np.zeros((30, 30, 1), np.uint8), classes, None)
    (made,) = targets([sample], 3, class_weights="none")
    assert made.weight[12, 15] > 5  # between the two components
    assert (made.weight[:2] == 0).all()
    assert made.classes.max() == 2
    assert (made.weight[15:25, 5:25] == 1).all()


def test_border_weights_are_cached_and_a_torn_entry_is_made_again(tmp_path, monkeypatch):
    sample = touching()
    (first,) = targets([sample], 2, cache=tmp_path)
    (entry,) = tmp_path.glob("*.npy")
    monkeypatch.setattr("keras_unet.data.pipeline.border_weights", None)  # must not be called
    (second,) = targets([sample], 2, cache=tmp_path)
    np.testing.assert_array_equal(first.weight, second.weight)
    monkeypatch.undo()
    entry.write_bytes(entry.read_bytes()[:100])
    (third,) = targets([sample], 2, cache=tmp_path)
    np.testing.assert_array_equal(first.weight, third.weight)
    targets([sample], 2, sigma=3.0, cache=tmp_path)
    assert len(list(tmp_path.glob("*.npy"))) == 2


def test_class_weights_must_fit():
    with pytest.raises(ConfigError, match="3 entries, the data has 2"):
        targets([touching()], 2, class_weights=(1.0, 1.0, 1.0))


def test_more_classes_than_a_byte_counts():
    classes = np.arange(400, dtype=np.int32).reshape(20, 20)
    (made,) = targets([Sample("many", np.zeros((20, 20, 1), np.uint8), classes, None)], 400, w0=0)
    np.testing.assert_array_equal(made.classes, classes)


def test_the_line_between_touching_cells_does_not_count():
    sample = touching()
    scored = scored_classes(sample, 2)
    (made,) = targets([sample], 2)
    np.testing.assert_array_equal(scored == -1, (sample.classes == 1) & (made.classes == 0))
    assert (scored[scored >= 0] == sample.classes[scored >= 0]).all()
    np.testing.assert_array_equal(scored_classes(sample, 0), sample.classes)
