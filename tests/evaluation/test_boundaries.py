from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.ndimage import binary_erosion

from keras_unet.errors import ConfigError, DataError
from keras_unet.evaluation.boundaries import boundary_scores, outline

CLASSES = arrays(np.int32, (5, 6), elements=st.integers(0, 2))


def brute_outline(classes, number, image_edge):
    found = []
    for y, x in np.argwhere(classes == number).tolist():
        for a, b in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
            within = 0 <= a < classes.shape[0] and 0 <= b < classes.shape[1]
            if (within and classes[a, b] not in (number, -1)) or (not within and image_edge):
                found.append((y, x))
                break
    return found


def brute(truth, predicted, number, tolerance, image_edge):
    sides = [brute_outline(each, number, image_edge) for each in (truth, predicted)]
    if not sides[0] and not sides[1]:
        return math.nan, math.nan
    if not sides[0] or not sides[1]:
        return 0.0, math.nan
    gaps = [[min(math.dist(p, q) for q in b) for p in a] for a, b in (sides, sides[::-1])]
    recall, precision = (np.mean([gap <= tolerance for gap in each]) for each in gaps)
    f1 = 2 * recall * precision / (recall + precision) if recall * precision else 0.0
    return f1, max(np.percentile(each, 95) for each in gaps)


@settings(max_examples=80, deadline=None)
@given(CLASSES, CLASSES, st.sampled_from([0.0, 1.0, 1.5]), st.booleans(), st.booleans())
def test_against_all_pairs_of_outline_pixels(truth, predicted, tolerance, image_edge, ignore):
    if ignore:
        truth = np.where((truth == 2) & (predicted == 0), -1, truth)
    found = boundary_scores(truth, predicted, 3, tolerance=tolerance, image_edge=image_edge)
    seen = np.where(truth == -1, -1, predicted)
    for number in range(3):
        f1, far = brute(truth, seen, number, tolerance, image_edge)
        assert found["boundary_f1"][number] == pytest.approx(f1, nan_ok=True)
        assert found["hausdorff95"][number] == pytest.approx(far, nan_ok=True)


def test_the_outline_at_the_images_edge_is_the_usual_one():
    mask = np.random.default_rng(0).integers(0, 2, (9, 9))
    assert np.array_equal(outline(mask, 1), (mask == 1) & ~binary_erosion(mask == 1))
    assert not outline(np.ones((4, 4), int), 1, image_edge=False).any()


def test_a_shifted_square():
    truth, predicted = np.zeros((30, 30), int), np.zeros((30, 30), int)
    truth[5:15, 5:15] = 1
    predicted[5:15, 8:18] = 1
    options = {"num_classes": 2, "image_edge": False}
    near = boundary_scores(truth, predicted, tolerance=3, **options)
    assert near["boundary_f1"][1] == 1
    assert near["hausdorff95"][1] == 3
    assert boundary_scores(truth, predicted, tolerance=0, **options)["boundary_f1"][1] < 0.5


def test_images_are_pooled_and_absent_classes_counted():
    here = np.zeros((8, 8), int)
    here[2:5, 2:5] = 1
    there, none = np.roll(here, 2, axis=1), np.zeros((8, 8), int)
    one = boundary_scores(here, there, 3, tolerance=0)
    both = boundary_scores([here, here, none], [there, none, none], 3, tolerance=0)
    # 8 more true outline pixels, none of them found
    hits = one["boundary_f1"][1] * 16 / 2
    assert both["boundary_f1"][1] == pytest.approx(2 * hits / (16 + 8))
    assert both["hausdorff95"][1] == one["hausdorff95"][1]
    assert both["hausdorff95_undefined"] == [0, 1, 0]
    assert math.isnan(both["boundary_f1"][2]) and math.isnan(both["hausdorff95"][2])
    lost = boundary_scores(here, none, 2)
    assert lost["boundary_f1"][1] == 0 and math.isnan(lost["hausdorff95"][1])


def test_bad_input_is_refused():
    image = np.zeros((4, 4), int)
    with pytest.raises(DataError, match="one shape"):
        boundary_scores(image, image[:3], 2)
    with pytest.raises(DataError, match="expected 0 … 1"):
        boundary_scores(image, image - 1, 2)
    with pytest.raises(DataError, match="integers"):
        boundary_scores(image, image.astype(float), 2)
    with pytest.raises(DataError, match="1 true and 2 predicted"):
        boundary_scores([image], [image, image], 2)
    with pytest.raises(ConfigError, match="tolerance"):
        boundary_scores(image, image, 2, tolerance=-1)
