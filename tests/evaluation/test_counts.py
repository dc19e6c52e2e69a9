"""All scores from sums of counts equal the scores of the images themselves."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from made_evaluation import scene

from keras_unet.data.samples import Sample
from keras_unet.errors import ConfigError, DataError
from keras_unet.evaluation import (
    ScoreSettings,
    boundary_scores,
    evaluate,
    isbi2012,
    object_scores,
)
from keras_unet.evaluation.confusion import confusion_matrix, scores
from keras_unet.evaluation.counts import add, image_counts, require_objects, score, stack
from keras_unet.inference import to_instances

NAMES = ("background", "cell", "border")


def counted(seed, classes=2, **settings):
    truth, image, given = scene(seed, classes)
    sample = Sample(str(seed), image, truth)
    settings = ScoreSettings(**settings)
    return truth, given, image_counts(sample, truth, given, NAMES[:classes], settings)


def test_pooled_scores_are_those_of_all_pixels_outlines_and_objects():
    made = [counted(seed, 3, objects=True, tolerance=1.5) for seed in range(4)]
    total = {}
    for _, _, counts in made:
        total = add(total, counts)
    found = score(total, NAMES)
    truths = [truth for truth, _, _ in made]
    seen = [given.argmax(-1) for _, given, _ in made]
    matrix = sum(confusion_matrix(t, s, 3) for t, s in zip(truths, seen, strict=True))
    expected = scores(matrix)
    outlines = boundary_scores(truths, seen, 3, tolerance=1.5, image_edge=False)
    for k, name in enumerate(NAMES):
        for key in ("iou", "dice", "precision", "recall"):
            assert found[key][name] == pytest.approx(expected[key][k])
        for key, values in outlines.items():
            assert found[key][name] == pytest.approx(values[k])
    assert found["mean_iou"] == pytest.approx(expected["mean_iou"])
    objects = object_scores(
        [to_instances(t > 0) for t in truths], [to_instances(s > 0) for s in seen]
    )
    for key, value in objects.items():
        assert found["objects"][key] == pytest.approx(value)
    pixels = sum(t.size for t in truths)
    squares = sum(
        np.square(given.astype(float) - (truth[..., None] == np.arange(3))).sum()
        for truth, given, _ in made
    )
    assert found["brier"] == pytest.approx(squares / pixels, rel=1e-6)


def test_predicted_objects_are_cut_apart_and_cleaned_true_ones_are_not():
    """Two touching discs found as one, and a speck beside them; the truth has a speck too."""
    y, x = np.mgrid[:48, :64]
    discs = [(y - 24) ** 2 + (x - c) ** 2 < 120 for c in (20, 40)]
    truth, seen = (np.zeros((48, 64), np.int32) for _ in range(2))
    truth[discs[0]], truth[discs[1] & ~discs[0]], truth[2, 2] = 1, 2, 3
    seen[discs[0] | discs[1]] = seen[45:47, 60:62] = 1
    sample = Sample("a", np.zeros((48, 64, 1), np.uint8), (truth > 0).astype(np.int32), truth)
    given = np.eye(2, dtype=np.float32)[seen]

    def objects(**settings):
        counts = image_counts(sample, sample.classes, given, NAMES[:2], ScoreSettings(**settings))
        found = score(counts, NAMES[:2])["objects"]
        return tuple(int(found[k]) for k in ("true_positives", "false_positives", "merged"))

    assert objects() == (1, 1, 1)
    assert objects(min_size=5) == (1, 0, 1)
    assert objects(split="distance") == (2, 1, 0)
    assert objects(split="distance", min_size=5) == (2, 0, 0)
    with pytest.raises(ValueError, match="split"):
        ScoreSettings(split="watershed")
    sample = dataclasses.replace(sample, instances=None)
    for ignored in ({"split": "distance"}, {"min_size": 5}):
        with pytest.raises(ConfigError, match="of predicted objects, and objects are not scored"):
            require_objects(sample, ScoreSettings(**ignored))
    assert objects(min_size=5, objects=True) == (1, 0, 0)  # two true discs that touch are one


def test_wrong_pixels_near_true_outlines_by_all_pairs():
    truth, given, counts = counted(3, tolerance=2.0)
    seen = given.argmax(-1)
    edge = []
    for y, x in np.argwhere(truth >= 0):
        for a, b in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
            inside = 0 <= a < truth.shape[0] and 0 <= b < truth.shape[1]
            if inside and truth[a, b] != truth[y, x]:
                edge.append((y, x))
                break
    wrong = np.argwhere(seen != truth)
    near = sum(min(np.hypot(*(np.array(edge) - p).T)) <= 2.0 for p in wrong)
    assert counts["wrong"].tolist() == [len(wrong), near]
    assert 0 < near < len(wrong)


def test_challenge_scores_are_those_of_the_stack():
    made = [counted(seed, isbi=True) for seed in (5, 6)]
    found = score(add(made[0][2], made[1][2]), NAMES[:2])["isbi"]
    expected = isbi2012(
        np.stack([truth for truth, _, _ in made]), np.stack([given[..., 1] for _, given, _ in made])
    )
    for name, value in found.items():
        assert value == pytest.approx(expected[name])


def test_a_stack_of_counts_scores_each_image():
    made = [counted(seed, objects=True)[2] for seed in range(3)]
    together = score(stack(made), NAMES[:2])
    for k, one in enumerate(made):
        alone = score(one, NAMES[:2])
        assert together["iou"]["cell"][k] == alone["iou"]["cell"]
        assert together["hausdorff95"]["cell"][k] == alone["hausdorff95"]["cell"]
        assert together["objects"]["f1"][k] == alone["objects"]["f1"]
        assert together["calibration_error"][k] == alone["calibration_error"]


def test_ignored_pixels_count_nowhere():
    truth, image, given = scene(8)
    ignored = truth.copy()
    ignored[:20] = -1
    settings = ScoreSettings(objects=True)
    sample = Sample("a", image, ignored)
    left_out = image_counts(sample, ignored, given, NAMES[:2], settings)
    other = given.copy()
    other[:20] = other[:20, :, ::-1]  # another prediction there
    again = image_counts(sample, ignored, other, NAMES[:2], settings)
    for name, block in left_out.items():
        if name not in (
            "objects",
            "object_areas",
        ):  # what an object is may depend on its other half, see `judged`
            np.testing.assert_array_equal(block, again[name])
    assert left_out["confusion"].sum() == truth[20:].size


def test_objects_that_the_labels_cannot_judge_are_not_false():
    truth = np.zeros((40, 60), np.int32)
    truth[5:15, 5:15] = 1
    truth[:, 40:] = -1
    given = np.zeros((40, 60, 2), np.float32)
    given[5:15, 5:15, 1] = given[5:15, 45:55, 1] = given[25:35, 36:50, 1] = 1
    given[..., 0] = 1 - given[..., 1]
    image = np.zeros((40, 60, 1), np.uint8)
    settings = ScoreSettings(objects=True)

    def scored(sample):
        return score(image_counts(sample, truth, given, NAMES[:2], settings), NAMES[:2])["objects"]

    assert scored(Sample("a", image, truth))["f1"] == 1
    missing = truth < 0  # never measured: what is found beside it is as at the image's edge
    assert scored(Sample("a", image, truth, missing=missing))["false_positives"] == 1


def test_nothing_of_a_class_is_undefined_and_something_wrong_is_zero():
    image = np.zeros((6, 6, 1), np.uint8)
    blank = np.zeros((6, 6), np.int32)
    given = np.zeros((6, 6, 3), np.float32)
    given[..., 0] = 1
    given[:3, :3] = (0, 1, 0)
    sample = Sample("a", image, blank)
    found = score(image_counts(sample, blank, given, NAMES, ScoreSettings(objects=True)), NAMES)
    assert found["iou"]["cell"] == found["dice"]["cell"] == found["precision"]["cell"] == 0
    assert found["boundary_f1"]["cell"] == 0 and np.isnan(found["hausdorff95"]["cell"])
    assert found["hausdorff95_undefined"]["cell"] == 1
    assert np.isnan(found["recall"]["cell"])
    for key in ("iou", "dice", "precision", "recall", "boundary_f1", "hausdorff95"):
        assert np.isnan(found[key]["border"])
    assert found["mean_iou"] == pytest.approx((27 / 36 + 0) / 2)
    assert found["objects"]["f1"] == 0 and np.isnan(found["objects"]["seg"])
    assert np.isnan(found["wrong_near_outline"]) == (found["pixel_error"] == 0)


def test_objects_of_one_class():
    truth, given, counts = counted(2, 3, objects=True, object_class="border")
    expected = object_scores(to_instances(truth == 2), to_instances(given.argmax(-1) == 2))
    assert score(counts, NAMES)["objects"]["f1"] == expected["f1"]


def test_settings_that_do_not_fit_are_named():
    with pytest.raises(ConfigError, match="'nucleus'; expected one of background, cell"):
        counted(0, objects=True, object_class="nucleus")
    with pytest.raises(ConfigError, match="two classes.*3: background, cell, border"):
        counted(0, 3, isbi=True)
    truth, image, given = scene(0)
    truth[0, 0] = -1
    with pytest.raises(DataError, match="count every pixel"):
        image_counts(Sample("a", image, truth), truth, given, NAMES[:2], ScoreSettings(isbi=True))


def test_a_mapping_of_settings_that_does_not_fit_is_named():
    with pytest.raises(ConfigError, match=r"evaluation: split: Input .*'none', got 'foo'$"):
        evaluate("no_model", "no_images", output=None, settings={"split": "foo"})
