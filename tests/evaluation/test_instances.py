from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from keras_unet.errors import ConfigError, DataError
from keras_unet.evaluation.instances import (
    AREAS,
    COUNTS,
    IOU_THRESHOLDS,
    area_rates,
    image_blocks,
    judged,
    match_objects,
    median_area,
    object_counts,
    object_scores,
    rates,
)

LABELS = arrays(np.uint16, (4, 6), elements=st.sampled_from([0, 0, 1, 2, 3, 700]))


def masks(labels):
    return {int(i): labels == i for i in np.unique(labels) if i}


def jaccard(a, b):
    return (a & b).sum() / (a | b).sum()


def brute(truth, predicted):
    """The scores of a list of images, object by object, from bool masks."""
    seg, ious, average, joined = [], [], [], [0, 0]
    count = dict.fromkeys(IOU_THRESHOLDS, (0, 0, 0))
    for t, p in zip(truth, predicted, strict=True):
        true, guessed = masks(t), masks(p)
        for a in true.values():
            seg.append(sum(jaccard(a, b) for b in guessed.values() if (a & b).sum() > a.sum() / 2))
        values = [jaccard(a, b) for a, b in itertools.product(true.values(), guessed.values())]
        ious += [v for v in values if v > 0.5]
        precisions = []
        for threshold in IOU_THRESHOLDS:
            hits = sum(v > threshold + 1e-9 for v in values)  # 0.55 of 11 / 20 is no hit
            one = (hits, len(guessed) - hits, len(true) - hits)
            count[threshold] = tuple(np.add(count[threshold], one))
            precisions.append(hits / sum(one) if sum(one) else math.nan)
        average.append(np.mean(precisions))
        for one, other, which in ((guessed, true, 0), (true, guessed, 1)):
            held = [sum(2 * (a & b).sum() > b.sum() for b in other.values()) for a in one.values()]
            joined[which] += sum(number > 1 for number in held)
    hits, wrong, missed = count[0.5]

    def ratio(a, b):
        return a / b if b else math.nan

    present = [value for value in average if not math.isnan(value)]
    pooled = [ratio(c[0], sum(c)) for c in count.values()]
    return {
        "seg": ratio(sum(seg), len(seg)),
        "map_dsb2018": ratio(sum(present), len(present)),
        "map_pooled": np.mean(pooled),
        "f1": ratio(hits, hits + (wrong + missed) / 2),
        "precision": ratio(hits, hits + wrong),
        "recall": ratio(hits, hits + missed),
        "pq": ratio(sum(ious), hits + (wrong + missed) / 2),
        "sq": ratio(sum(ious), hits),
        "rq": ratio(hits, hits + (wrong + missed) / 2),
        "true_positives": hits,
        "false_positives": wrong,
        "false_negatives": missed,
        "merged": joined[0],
        "split": joined[1],
    }


@settings(max_examples=120, deadline=None)
@given(st.lists(st.tuples(LABELS, LABELS, st.booleans()), min_size=1, max_size=3))
def test_scores_against_masks_one_by_one(images):
    truth = [t for t, _, _ in images]
    # a prediction near the truth, half of the time: unrelated ones hardly ever match
    predicted = [np.where(p > 2, p, t) if near else p for t, p, near in images]
    found, expected = object_scores(truth, predicted), brute(truth, predicted)
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, nan_ok=True), name
    assert np.mean(list(found["average_precision"].values())) == pytest.approx(
        found["map_pooled"], nan_ok=True
    )


@settings(max_examples=80, deadline=None)
@given(LABELS, LABELS, st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.7]))
def test_matching_against_all_assignments(truth, predicted, iou):
    true, guessed = masks(truth), masks(predicted)
    found = match_objects(truth, predicted, iou)
    assert len(set(found.truth.tolist())) == len(found.truth)
    assert len(set(found.predicted.tolist())) == len(found.predicted)
    for t, p, value in zip(*found, strict=True):
        assert value == pytest.approx(jaccard(true[t], guessed[p]))
        assert value > iou
    best = (0, 0.0)
    slots = [*guessed, *[None] * len(true)]
    for chosen in set(itertools.permutations(slots, len(true))):
        values = [
            jaccard(true[t], guessed[p]) for t, p in zip(true, chosen, strict=True) if p is not None
        ]
        values = [v for v in values if v > iou]
        best = max(best, (len(values), sum(values)))
    assert len(found.iou) == best[0]
    assert found.iou.sum() == pytest.approx(best[1])


def test_a_match_needs_more_than_the_threshold():
    truth = np.array([[1, 1, 1, 0, 2, 2]])
    half = np.array([[1, 1, 1, 1, 0, 2]])  # IoU 3/4 and 1/2
    assert object_scores(truth, half)["true_positives"] == 1
    row = np.zeros((1, 20), int)
    truth, eleven = row + 1, row.copy()
    eleven[0, :11] = 1  # 11/20 = 0.55 exactly: above 0.5 alone
    assert object_counts(truth, eleven)[-10:].tolist() == [1, 0, 0, 0, 0, 0, 0, 0, 0, 0]


def test_seg_looks_at_the_reference_alone():
    """A predicted object that swallows two true ones counts, with its Jaccard, for both."""
    truth = np.array([[1, 1, 2, 2, 2, 2]])
    scores = object_scores(truth, np.ones_like(truth))
    assert scores["seg"] == pytest.approx((2 / 6 + 4 / 6) / 2)
    assert scores["true_positives"] == 1


def test_nan_rules_for_images_without_objects():
    none, one = np.zeros((3, 3), int), np.ones((3, 3), int)
    empty = object_scores(none, none)
    nan = {k for k, v in empty.items() if not isinstance(v, dict) and math.isnan(v)}
    counted = {"true_positives", "false_positives", "false_negatives", "merged", "split"}
    counted |= {"average_precision"}
    assert nan == empty.keys() - counted
    invented = object_scores(none, one)
    assert math.isnan(invented["seg"]) and math.isnan(invented["recall"])
    assert invented["map_dsb2018"] == invented["precision"] == invented["pq"] == 0
    missed = object_scores(one, none)
    assert missed["seg"] == missed["recall"] == missed["f1"] == 0
    assert math.isnan(missed["precision"]) and math.isnan(missed["sq"])
    # an empty image does not change the mean over images, a false object does
    assert object_scores([one, none], [one, none])["map_dsb2018"] == 1
    assert object_scores([one, none], [one, one])["map_dsb2018"] == 0.5


def test_counts_of_images_add_up():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 4, (3, 5, 5))
    images = list(zip(truth, np.where(rng.random(truth.shape) < 0.1, 0, truth), strict=True))
    counts = [object_counts(t, p) for t, p in images]
    pooled = rates(np.sum(counts, axis=0))
    assert pooled == object_scores([t for t, _ in images], [p for _, p in images])
    stacked = rates(np.array(counts))  # all images in one call
    for place, (t, p) in enumerate(images):
        assert float(stacked["pq"][place]) == pytest.approx(object_scores(t, p)["pq"])
    assert counts[0].shape == (len(COUNTS),)


@settings(max_examples=60, deadline=None)
@given(LABELS, LABELS)
def test_areas_against_masks_one_by_one(truth, predicted):
    true, guessed = masks(truth), masks(predicted)
    pairs = [(a, b) for a in true for b in guessed if jaccard(true[a], guessed[b]) > 0.5]
    found = [b for _, b in pairs]
    rows = [
        [guessed[b].sum() for b in found],
        [guessed[b].sum() for b in guessed if b not in found],
        [true[a].sum() for a in true if a not in [a for a, _ in pairs]],
    ]
    blocks = image_blocks(truth, predicted)
    assert np.array_equal(blocks["objects"], object_counts(truth, predicted))
    for histogram, areas in zip(blocks["object_areas"], rows, strict=True):
        expected = np.bincount([int(math.log2(a)) for a in areas], minlength=AREAS)
        assert np.array_equal(histogram, expected)


def test_the_median_area_lies_in_the_group_of_the_median():
    rng = np.random.default_rng(0)
    for _ in range(50):
        areas = np.ceil(2 ** rng.uniform(0, 12, 2 * rng.integers(0, 20) + 1)).astype(int)
        histogram = np.bincount(np.log2(areas).astype(int), minlength=AREAS)
        found, median = median_area(histogram), np.median(areas)
        assert int(math.log2(found)) == int(math.log2(median))
    nothing = np.zeros(AREAS)
    pixels = np.eye(AREAS)[0] * 7
    assert np.isnan(median_area(nothing)) and median_area(pixels) == 1
    both = area_rates(np.stack([[nothing, pixels, nothing], [pixels, nothing, pixels]]))
    assert np.isnan(both["false_area"]).tolist() == [False, True]
    assert both["missed_area"][1] == 1
    huge = np.zeros((1, 1 << 12), np.int64)
    assert image_blocks(huge, huge)["object_areas"].sum() == 0


def test_merged_and_split_objects():
    truth = np.array([[1, 1, 1, 2, 2, 2, 0, 3, 3, 3, 3, 3]])
    found = np.array([[5, 5, 5, 5, 5, 5, 0, 6, 6, 0, 7, 7]])
    scores = object_scores(truth, found)
    assert (scores["merged"], scores["split"]) == (1, 1)
    back = object_scores(found, truth)  # each is the other, seen from the other side
    assert (back["merged"], back["split"]) == (1, 1)
    touched = np.array([[5, 5, 5, 5, 0, 0, 0, 6, 6, 6, 6, 6]])  # a third of object 2
    assert object_scores(truth, touched)["merged"] == 0


def test_bad_input_is_refused():
    image = np.ones((3, 3), int)
    with pytest.raises(DataError, match="one shape"):
        object_scores(image, image[:2])
    with pytest.raises(DataError, match="integer labels"):
        object_scores(image, image.astype(float))
    with pytest.raises(DataError, match="label -1"):
        object_scores(-image, image)
    with pytest.raises(DataError, match="2 true and 1 predicted"):
        object_scores([image, image], [image])
    with pytest.raises(DataError, match="both"):
        object_scores(image, [image])
    with pytest.raises(ConfigError, match="iou"):
        match_objects(image, image, 1.0)


def test_huge_labels_cost_no_memory():
    truth = np.zeros((8, 8), np.int64)
    truth[1:4, 1:4], truth[5:, 5:] = 2**40, 2**62
    full = np.where(truth > 0, truth, 2**41)  # no background
    assert object_scores(truth, truth)["f1"] == 1
    found = match_objects(truth, full)
    assert found.truth.tolist() == found.predicted.tolist() == [2**40, 2**62]
    assert object_scores(truth, full)["false_positives"] == 1


def boxes(*places, size=(40, 60)):
    """Numbered boxes (top, left, bottom, right)."""
    labels = np.zeros(size, np.int32)
    for number, (top, left, bottom, right) in enumerate(places, start=1):
        labels[top:bottom, left:right] = number
    return labels


IGNORED = np.zeros((40, 60), bool)
IGNORED[:, 40:] = True


@pytest.mark.parametrize(
    ("truth", "predicted", "counted"),
    [
        # (true, predicted, hits) that are left
        ([], [(5, 45, 15, 55)], (0, 0, 0)),  # in the ignored part
        ([], [(5, 36, 15, 50)], (0, 0, 0)),  # mostly
        ([], [(5, 28, 15, 45)], (0, 1, 0)),  # mostly where there is background: false
        ([(5, 30, 15, 40)], [(5, 30, 15, 58)], (1, 1, 1)),  # right as far as is known
        ([(5, 38, 15, 40)], [(5, 34, 15, 58)], (0, 0, 0)),  # the edge of something
        ([(5, 38, 15, 40)], [], (1, 0, 0)),
        ([(5, 5, 15, 15)], [(5, 45, 15, 55)], (1, 0, 0)),  # missed
        # two run together, and with what is not known: both are missed
        ([(5, 30, 15, 38), (20, 30, 30, 38)], [(5, 30, 30, 60)], (2, 0, 0)),
    ],
)
def test_objects_beside_ignored_pixels(truth, predicted, counted):
    found = judged(boxes(*truth), boxes(*predicted), IGNORED)
    assert not any(labels[IGNORED].any() for labels in found)
    counts = dict(zip(COUNTS, object_counts(*found), strict=True))
    hits = counts["true_positives_0.5"]
    assert (counts["truth"], counts["predicted"], hits) == counted


def test_without_ignored_pixels_all_objects_are_judged():
    truth, predicted = boxes((5, 5, 15, 15)), boxes((5, 5, 15, 30), (20, 20, 30, 50))
    found = judged(truth, predicted, np.zeros((40, 60), bool))
    np.testing.assert_array_equal(found[0], truth)
    np.testing.assert_array_equal(found[1], predicted)
