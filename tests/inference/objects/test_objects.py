from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage
from skimage.draw import disk
from skimage.measure import label

from keras_unet.errors import ConfigError, DataError
from keras_unet.inference.objects import finding, measurements
from keras_unet.inference.objects.finding import to_instances, to_objects

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


@pytest.mark.parametrize("size", [(8, 30), (10, 60), (10, 190), (3, 200)])
def test_a_rod_stays_one(size):
    """Its distance has a ridge of many peaks, all of which are joined."""
    mask = np.zeros((60, 220), bool)
    mask[20 : 20 + size[0], 10 : 10 + size[1]] = True
    assert to_instances(mask, split="neck").max() == 1


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
    assert left != right and wrong.mean() < 0.05
    # peaks that have to lie farther apart than the discs: one object
    assert to_instances(mask, split="distance", seed_distance=20).max() == 1


def discs(radius, apart, size=(120, 200)):
    """Two discs of a radius, their centres so many pixels apart."""
    y, x = np.mgrid[: size[0], : size[1]]
    centres = (size[1] - apart) / 2, (size[1] + apart) / 2
    return np.any([(y - size[0] / 2) ** 2 + (x - c) ** 2 <= radius**2 for c in centres], axis=0)


@pytest.mark.parametrize("radius", [8, 15, 30])
def test_a_neck_means_the_same_at_any_size(radius):
    """Discs at d apart have a neck of sqrt(1 - (d / 2r)^2) of their radius."""
    narrow, wide = discs(radius, 1.4 * radius), discs(radius, 0.6 * radius)  # 0.71 and 0.95
    found = to_instances(narrow, split="neck")
    assert found.max() == 2 and np.array_equal(found > 0, narrow)
    assert to_instances(wide, split="neck").max() == 1
    assert to_instances(narrow, split="neck", neck=0.5).max() == 1
    columns = np.nonzero(narrow)[1]
    assert (
        (found[narrow] == found[60, round(100 - 0.7 * radius)]) != (columns < 99.5)
    ).mean() < 0.05


def test_a_neck_is_no_matter_of_the_pixel_grid():
    """One convex object stays one, however its outline falls on the grid."""
    y, x = np.mgrid[:120, :120]
    rng = np.random.default_rng(0)
    for _ in range(30):
        a, b, turn = rng.uniform(6, 40), rng.uniform(6, 40), rng.uniform(0, np.pi)
        oy, ox = rng.uniform(55, 65, 2)
        u = (x - ox) * np.cos(turn) + (y - oy) * np.sin(turn)
        v = (y - oy) * np.cos(turn) - (x - ox) * np.sin(turn)
        assert to_instances((u / a) ** 2 + (v / b) ** 2 <= 1, split="neck").max() == 1


@settings(max_examples=60, deadline=None)
@given(MASKS, st.sampled_from([("distance", 1), ("distance", 3), ("neck", 0.7), ("neck", 1.0)]))
def test_a_split_loses_no_pixel_and_joins_no_components(mask, how):
    split, number = how
    setting = {"distance": "seed_distance", "neck": "neck"}[split]
    found = to_instances(mask, split=split, **{setting: number})
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


def cells(seed=0, size=(150, 170), sigma=3.0):
    """Blobs, many of them touching, some at the image's edges."""
    return ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=size), sigma) > 0


@pytest.mark.parametrize("connectivity", [4, 8])
@pytest.mark.parametrize("how", ["distance", "neck", "seeds"])
@pytest.mark.parametrize("sigma", [1.0, 3.0])
def test_windows_change_nothing(monkeypatch, connectivity, how, sigma):
    for seed in range(4):
        mask = cells(seed, sigma=sigma)
        rng = np.random.default_rng(seed)
        settings = {"connectivity": connectivity, "split": how, "seed_distance": 2}
        if how == "seeds":
            seeds = rng.integers(1, 9, mask.shape) * (rng.random(mask.shape) < 0.01)
            settings = {"connectivity": connectivity, "seeds": seeds}
        with monkeypatch.context() as patch:
            expected = to_instances(mask, **settings)
            patch.setattr(finding, "WINDOW", 5)
            assert np.array_equal(to_instances(mask, **settings), expected)
        if how != "seeds":
            assert expected.max() > to_instances(mask, connectivity=connectivity).max()


@pytest.mark.parametrize(
    "how", [{"split": "neck"}, *({"split": "distance", "seed_distance": k} for k in (1, 3, 6))]
)
def test_specks_that_are_not_looked_at_would_stay_whole(monkeypatch, how):
    rng = np.random.default_rng(0)
    noise = ndimage.gaussian_filter(rng.normal(size=(150, 150)), 3)
    mask = (noise / noise.std() > 0.8) | (rng.random((150, 150)) < 0.15)
    found = to_instances(mask, **how)
    assert found.max() > to_instances(mask).max() > 300  # some are cut, most are specks
    every = finding._windows
    monkeypatch.setattr(finding, "_windows", lambda labels, count, whole: every(labels, count, 0))
    assert np.array_equal(to_instances(mask, **how), found)


def test_bands_change_nothing(monkeypatch):
    mask = cells(3, (60, 40), 1.0)
    settings = {"fill_holes": 9, "min_size": 4, "split": "distance"}
    expected = to_instances(mask, **settings)
    monkeypatch.setattr(measurements, "BAND_PIXELS", 100)
    assert np.array_equal(to_instances(mask, **settings), expected)


def test_numbers_follow_reading_order():
    found = to_instances(cells(), split="distance")
    first = np.unique(found, return_index=True)[1][1:]
    assert found.max() > 20 and (np.diff(first) > 0).all()


def test_classes_are_objects_of_their_own():
    classes = np.zeros((12, 16), np.uint8)
    classes[1:6, 1:6] = 2
    classes[1:6, 6:9] = 7  # beside it
    classes[3, 3] = 0
    classes[2, 2] = 7  # in a hole of the first
    classes[9, 1] = 2
    found, kinds = to_objects(classes, fill_holes=True)
    assert [kinds[n] for n in sorted(kinds)] == [2, 7, 7, 2]
    assert found[1, 1] == 1 == found[3, 3] and found[1, 6] == 2 and found[2, 2] == 3
    assert found[9, 1] == 4 and set(kinds) == {1, 2, 3, 4}
    assert np.array_equal(found > 0, (classes > 0) | (np.indices(classes.shape) == 3).all(0))
    within = np.full((5, 5), 7)
    within[2, 2] = 2  # a hole for class 7, but no background
    assert to_objects(within, fill_holes=True)[1] == {1: 7, 2: 2}
    found, kinds = to_objects(classes, min_size=15)
    assert kinds == {1: 2, 2: 7} and (found > 0).sum() == 23 + 15


def test_the_border_class_goes_to_its_neighbours():
    classes = np.zeros((9, 20), int)
    classes[1:8, 1:19] = 3
    classes[2:7, 2:9] = 1
    classes[2:7, 11:18] = 2
    classes[8, 0] = 3  # a piece of border alone
    found, kinds = to_objects(classes, border=3)
    assert kinds == {1: 1, 2: 2, 3: 1} and np.array_equal(found > 0, classes > 0)
    assert set(found[1:8, 1:10].ravel()) == {1} and set(found[1:8, 10:19].ravel()) == {2}
    assert to_objects(classes * 0)[1] == {}
    with pytest.raises(ConfigError, match="not both"):
        to_objects(classes, border=3, split="distance")
    with pytest.raises(DataError, match="classes must be"):
        to_objects(classes / 2)


def test_real_nuclei_are_found_again(shared):
    from keras_unet.data import read_labels

    files = sorted((shared / "data/dsb2018_fluo/val/labels").iterdir())[:4]
    found = total = 0
    for file in files:
        truth = read_labels(file)
        split = to_instances(truth > 0, split="neck", min_size=10)
        inter = np.histogram2d(
            truth.ravel(),
            split.ravel(),
            [np.arange(truth.max() + 2) - 0.5, np.arange(split.max() + 2) - 0.5],
        )[0]
        union = inter.sum(0)[None] + inter.sum(1)[:, None] - inter
        found += int((inter / union)[1:, 1:].max(axis=1, initial=0).__gt__(0.5).sum())
        total += truth.max()
    assert found > 0.9 * total


def test_bad_input_is_refused():
    mask = np.ones((4, 4), bool)
    for setting in (
        {"threshold": 2},
        {"connectivity": 6},
        {"min_size": -1},
        {"split": "border"},
        {"split": "distance", "seed_distance": 0},
        {"split": "distance", "seeds": mask},
        {"split": "neck", "neck": 0.0},
        {"split": "neck", "neck": 1.1},
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
