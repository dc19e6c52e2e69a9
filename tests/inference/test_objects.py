from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage
from skimage.draw import disk
from skimage.measure import label, regionprops_table

from keras_unet.errors import ConfigError, DataError
from keras_unet.inference.objects import measure, to_instances

MASKS = arrays(bool, (6, 7))


def same_partition(a, b):
    """Equal up to the numbers of the objects."""
    pairs = set(zip(a.ravel().tolist(), b.ravel().tolist(), strict=True))
    return len(pairs) == len({p for p, _ in pairs}) == len({q for _, q in pairs})


def touching_discs(radius=9, apart=15):
    mask = np.zeros((40, 60), bool)
    for centre in ((20, 20), (20, 20 + apart)):
        mask[disk(centre, radius)] = True
    return mask


@settings(max_examples=60, deadline=None)
@given(MASKS, st.sampled_from([4, 8]), st.integers(0, 4))
def test_components_of_at_least_a_size(mask, connectivity, min_size):
    found = to_instances(mask, connectivity=connectivity, min_size=min_size)
    expected = label(mask, connectivity=connectivity // 4)
    sizes = np.bincount(expected.ravel())
    expected[sizes[expected] < min_size] = 0
    assert found.dtype == np.int32
    assert same_partition(found, np.where(mask, expected, 0))
    assert sorted(set(found.ravel().tolist()) - {0}) == list(range(1, found.max() + 1))


@settings(max_examples=60, deadline=None)
@given(MASKS, st.sampled_from([4, 8]))
def test_holes_are_what_scipy_fills(mask, connectivity):
    around = ndimage.generate_binary_structure(2, 2 if connectivity == 4 else 1)
    filled = to_instances(mask, connectivity=connectivity, fill_holes=True) > 0
    assert np.array_equal(filled, ndimage.binary_fill_holes(mask, around))


def test_only_small_holes_are_filled():
    mask = np.ones((12, 12), bool)
    mask[2, 2] = mask[5:8, 5:8] = mask[0, 9] = False
    filled = to_instances(mask, fill_holes=4) > 0
    assert filled[2, 2] and not filled[6, 6] and not filled[0, 9]
    assert to_instances(mask, fill_holes=9)[6, 6] == 1
    assert to_instances(mask)[2, 2] == 0


def test_probabilities_are_above_the_threshold():
    values = np.array([[0.2, 0.5, 0.51, 0.9]], np.float32)
    assert to_instances(values).tolist() == [[0, 0, 1, 1]]
    assert to_instances(values, threshold=0.6).tolist() == [[0, 0, 0, 1]]
    assert to_instances(np.array([[0, 2, 255, 0, 1]])).tolist() == [[0, 1, 1, 0, 2]]


def test_touching_discs_are_split_in_the_middle():
    mask = touching_discs()
    assert to_instances(mask).max() == 1
    found = to_instances(mask, split="distance")
    assert found.max() == 2
    assert np.array_equal(found > 0, mask)
    left, right = found[20, 20], found[20, 35]
    columns = np.nonzero(mask)[1]
    wrong = (found[mask] == left) != (columns < 27.5)
    assert left != right and wrong.mean() < 0.03
    # peaks that have to lie farther apart than the discs: one object
    assert to_instances(mask, split="distance", seed_distance=20).max() == 1


@settings(max_examples=40, deadline=None)
@given(MASKS, st.integers(1, 3))
def test_a_split_loses_no_pixel_and_joins_no_components(mask, seed_distance):
    found = to_instances(mask, split="distance", seed_distance=seed_distance)
    assert np.array_equal(found > 0, mask)
    for number in range(1, found.max() + 1):
        assert label(found == number, connectivity=1).max() == 1


def test_interiors_grow_into_the_border_class():
    classes = np.zeros((9, 20), int)
    classes[1:8, 1:19] = 2
    classes[2:7, 2:9] = classes[2:7, 11:18] = 1
    found = to_instances(classes > 0, seeds=classes == 1)
    assert found.max() == 2 and np.array_equal(found > 0, classes > 0)
    assert len(set(found[2:7, 2:9].ravel())) == len(set(found[2:7, 11:18].ravel())) == 1
    assert set(found[4, 1:9]) == {found[4, 3]} and set(found[4, 11:19]) == {found[4, 12]}
    # seeds by number: two pieces of one number stay one object; what has no seed stays
    numbers = np.zeros_like(classes)
    numbers[4, 3] = numbers[4, 15] = 7
    numbers[4, 10] = 900
    mask = classes > 0
    mask[8, 0] = True
    found = to_instances(mask, seeds=numbers)
    assert found.max() == 3
    assert found[4, 3] == found[4, 15] != found[4, 10]
    assert found[8, 0] not in (0, found[4, 3], found[4, 10])


@settings(max_examples=50, deadline=None)
@given(arrays(np.int32, (5, 6), elements=st.sampled_from([0, 1, 2, 9])), st.booleans())
def test_measurements_equal_scikit_images(instances, colour):
    shape = (5, 6, 3) if colour else (5, 6)
    image = np.random.default_rng(0).integers(0, 255, shape).astype(np.uint8)
    found = measure(instances, image)
    names = ("label", "area", "centroid", "equivalent_diameter_area", "intensity_mean")
    expected = regionprops_table(instances, image, properties=names)
    pairs = {
        "label": "label",
        "area_px": "area",
        "centroid_y_px": "centroid-0",
        "centroid_x_px": "centroid-1",
        "equivalent_diameter_px": "equivalent_diameter_area",
    }
    if colour:
        pairs |= {f"mean_intensity_{c}": f"intensity_mean-{c}" for c in range(3)}
    else:
        pairs["mean_intensity"] = "intensity_mean"
    assert set(found) == set(pairs)
    for ours, theirs in pairs.items():
        if len(found["label"]):
            np.testing.assert_allclose(found[ours], expected[theirs], rtol=1e-12)
        else:
            assert found[ours].size == 0


def test_micrometres():
    instances = np.zeros((20, 20), np.uint16)
    instances[4:8, 10:16] = 3
    table = measure(instances, pixel_size=(0.5, 0.25))
    assert table["label"].tolist() == [3] and table["area_px"].tolist() == [24]
    assert table["area_um2"] == pytest.approx([3.0])
    assert table["centroid_y_um"] == pytest.approx([5.5 * 0.5])
    assert table["centroid_x_um"] == pytest.approx([12.5 * 0.25])
    assert table["equivalent_diameter_um"] == pytest.approx([2 * np.sqrt(3 / np.pi)])
    both = measure(instances, pixel_size=2.0)
    assert both["equivalent_diameter_um"] == pytest.approx(2 * both["equivalent_diameter_px"])


def test_bad_input_is_refused():
    mask = np.ones((4, 4), bool)
    for setting in (
        {"threshold": 2},
        {"connectivity": 6},
        {"min_size": -1},
        {"split": "border"},
        {"split": "distance", "seed_distance": 0},
        {"split": "distance", "seeds": mask},
    ):
        with pytest.raises(ConfigError):
            to_instances(mask, **setting)
    with pytest.raises(DataError, match="mask must be"):
        to_instances(mask[None])
    with pytest.raises(DataError, match="NaN"):
        to_instances(np.full((4, 4), np.nan))
    with pytest.raises(DataError, match="seeds must be"):
        to_instances(mask, seeds=mask[:3])
    with pytest.raises(DataError, match="label -1"):
        to_instances(mask, seeds=-mask.astype(int))
    with pytest.raises(DataError, match="integer labels"):
        measure(mask.astype(float))
    with pytest.raises(DataError, match="image must be"):
        measure(mask, np.ones((3, 3)))
    with pytest.raises(ConfigError, match="pixel_size"):
        measure(mask, pixel_size=0.0)
