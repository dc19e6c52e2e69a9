"""Weight maps against brute force, the paper's equation 2, and the stored reference values."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from keras_unet.errors import ConfigError, DataError
from keras_unet.weight_maps import (
    balanced_class_weights,
    border_weights,
    separate_cells,
    two_nearest,
    weight_map,
)


def brute_distances(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """d1, d2 by one full distance transform a cell, float64; infinite where there is no cell."""
    each = [ndimage.distance_transform_edt(labels != k) for k in np.unique(labels[labels > 0])]
    each += [np.full(labels.shape, np.inf)] * max(0, 2 - len(each))
    nearest = np.sort(np.stack(each), axis=0)
    return nearest[0], nearest[1]


def brute_border(labels: np.ndarray, w0: float = 10.0, sigma: float = 5.0) -> np.ndarray:
    d1, d2 = brute_distances(labels)
    return w0 * np.exp(-((d1 + d2) ** 2) / (2 * sigma**2)) * (labels == 0)


def random_cells(seed: int, size: tuple[int, int], cells: int) -> np.ndarray:
    """Discs that overlap and touch, with gaps in the numbering and some cells in two parts."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(size, np.int32)
    y, x = np.mgrid[: size[0], : size[1]]
    for number in rng.permutation(cells * 3)[:cells]:
        for _ in range(rng.integers(1, 3)):
            centre, radius = rng.uniform(0, size), rng.uniform(0.5, min(size) / 4 + 1)
            labels[(y - centre[0]) ** 2 + (x - centre[1]) ** 2 < radius**2] = number + 2
    return labels


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    size=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    cells=st.integers(0, 9),
    sigma=st.sampled_from([0.3, 1.0, 5.0, 40.0]),
)
def test_border_equals_brute_force(seed, size, cells, sigma):
    labels = random_cells(seed, size, cells)
    if 0 < labels.max() == 255:
        labels[labels == 255] = 254
    got = border_weights(labels, w0=10.0, sigma=sigma)
    assert np.abs(got - brute_border(labels, 10.0, sigma)).max(initial=0) < 1e-4 * 10.0


@pytest.mark.parametrize("size", [(600, 150), (1, 300), (700, 1)])
@pytest.mark.parametrize("reach", [3.0, 24.0, 600.0])
def test_distances_equal_brute_force_over_several_tiles(reach, size):
    labels = random_cells(3, size, 40)
    d1, d2 = two_nearest(labels, reach)
    one, two = brute_distances(labels)
    wanted = (labels == 0) & (one + two <= reach)
    assert wanted.any()
    np.testing.assert_array_equal(np.isfinite(d1), wanted)
    np.testing.assert_allclose(d1[wanted], one[wanted], rtol=1e-6)
    np.testing.assert_allclose(d2[wanted], two[wanted], rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.int32, np.int64, np.uint64])
def test_any_integer_type_and_any_label_value(dtype):
    labels = random_cells(5, (60, 61), 8)
    largest = np.iinfo(dtype).max
    wanted = border_weights(labels)
    assert wanted.max() > 1
    top = int(labels.max())
    numbers = np.array([largest - top + k for k in range(top + 1)], dtype)
    got = border_weights(np.where(labels > 0, numbers[labels], np.array(0, dtype)))
    np.testing.assert_array_equal(got, wanted)


def test_border_equals_the_stored_reference(shared):
    files = sorted((shared / "oracles" / "weight_map").glob("*.npz"))
    assert files
    for file in files:
        with np.load(file, allow_pickle=False) as stored:
            labels, wanted = stored["labels"], stored["border_w0_10_sigma_5"]
            d1, d2 = stored["d1"], stored["d2"]
        background = labels == 0
        got = border_weights(labels, w0=10.0, sigma=5.0)
        assert np.abs(got - wanted)[background].max() < 1e-4 * 10.0, file.name
        assert not got[~background].any()
        near = background & (d1 + d2 < 20)
        one, two = two_nearest(labels, 20.0)
        np.testing.assert_allclose(one[near], d1[near], rtol=1e-6)
        np.testing.assert_allclose(two[near], d2[near], rtol=1e-6)


def test_a_gap_of_one_pixel_has_the_value_of_equation_2():
    labels = np.array([[7, 7, 0, 4, 4]])
    w = weight_map(labels, w0=10, sigma=5, class_weights=None)
    np.testing.assert_allclose(w, [[1, 1, 1 + 10 * math.exp(-(2**2) / 50), 1, 1]], rtol=1e-6)
    assert w.dtype == np.float32


def test_fewer_than_two_cells_have_no_border_term():
    labels = np.zeros((9, 9), np.int32)
    assert not border_weights(labels).any()
    labels[3:5, 3:5] = 6
    assert not border_weights(labels).any()
    np.testing.assert_array_equal(weight_map(np.zeros((9, 9), bool)), np.ones((9, 9)))


def test_balanced_weights_have_mean_one_and_equal_class_totals():
    labels = np.zeros((20, 30), np.int32)
    labels[:5, :6] = 9
    w = weight_map(labels, w0=0)
    assert w.mean() == pytest.approx(1, rel=1e-6)
    assert w[labels == 9].sum() == pytest.approx(w[labels == 0].sum(), rel=1e-5)
    assert w[0, 0] == pytest.approx(600 / (2 * 30))


def test_balanced_class_weights_rule():
    assert balanced_class_weights([30, 10]) == pytest.approx((40 / 60, 40 / 20))
    assert balanced_class_weights([30, 0, 10]) == pytest.approx((40 / 60, 1.0, 40 / 20))
    assert balanced_class_weights([0, 0]) == (1.0, 1.0)
    for bad in ([], [-1, 2], [[1, 2]], [float("nan")]):
        with pytest.raises(DataError, match="counts"):
            balanced_class_weights(bad)


def test_class_map_and_weights_are_looked_up_and_negative_classes_weigh_nothing():
    labels = np.array([[2, 2, 0, 3, 3, 0]])
    classes = np.array([[2, 2, 0, 1, -1, -1]])
    w = weight_map(labels, class_weights=(0.5, 2.0, 3.0), classes=classes, separation=0)
    border = 10 * math.exp(-4 / 50)
    np.testing.assert_allclose(w, [[3, 3, 0.5 + border, 2, 0, 0]], rtol=1e-6)
    balanced = weight_map(labels, w0=0, classes=classes)
    np.testing.assert_allclose(balanced, [[4 / 6, 4 / 6, 4 / 3, 4 / 3, 0, 0]], rtol=1e-6)


@pytest.mark.parametrize("value", [True, 1, 255])
def test_a_mask_is_split_into_4_connected_components(value):
    mask = np.zeros((8, 12), type(value) if value is True else np.uint8)
    mask[1:4, 1:5] = value
    mask[4:7, 5:9] = value  # meets the first at a corner only
    two = np.zeros(mask.shape, np.int32)
    two[1:4, 1:5], two[4:7, 5:9] = 3, 8
    got = weight_map(mask)
    np.testing.assert_array_equal(got, weight_map(two))
    assert got[3, 5] > 9  # background between the two, beside both
    # The components of a mask have no contact, so nothing is taken from them.
    np.testing.assert_array_equal(separate_cells(mask, 4) > 0, mask > 0)


@pytest.mark.parametrize("width", [0, 1, 2, 3, 4, 5])
def test_separation_width_and_sides(width):
    labels = np.repeat(np.array([[4] * 8 + [2] * 8]), 6, axis=0).astype(np.uint16)
    got = separate_cells(labels, width)
    assert got.dtype == labels.dtype
    line = np.flatnonzero(got[3] == 0)
    greater = width - width // 2  # the cell with the greater label is on the left
    np.testing.assert_array_equal(line, np.arange(8 - greater, 8 + width // 2))
    np.testing.assert_array_equal(got[:, line] == 0, True)
    np.testing.assert_array_equal(got[got > 0], labels[got > 0])


def test_separation_leaves_no_contact_and_touches_nothing_else():
    labels = random_cells(11, (80, 90), 12)
    padded = np.pad(labels, 1)
    contact = np.zeros(labels.shape, bool)
    for dy, dx in ((0, 1), (1, 0), (0, -1), (-1, 0)):
        other = np.roll(padded, (dy, dx), (0, 1))[1:-1, 1:-1]
        contact |= (labels > 0) & (other > 0) & (other != labels)
    assert contact.any()
    got = separate_cells(labels, 2)
    np.testing.assert_array_equal(got, np.where(contact, 0, labels))
    for width in (1, 2, 3):
        apart = separate_cells(labels, width)
        np.testing.assert_array_equal(separate_cells(apart, width), apart)
    wide = separate_cells(labels, 6)
    reach = np.zeros_like(contact)
    for y, x in zip(*np.nonzero(contact), strict=True):
        box = (slice(max(y - 2, 0), y + 3), slice(max(x - 2, 0), x + 3))
        reach[box] |= labels[box] == labels[y, x]
    lost = (wide == 0) & (labels > 0)
    assert (contact <= lost).all()
    assert (lost <= reach).all()


def test_touching_cells_get_their_border_from_the_separation():
    labels = np.repeat(np.array([[1] * 10 + [2] * 10]), 8, axis=0)
    assert not border_weights(labels).any()
    w = weight_map(labels, class_weights=None)
    np.testing.assert_allclose(w[4, 9:11], 1 + 10 * math.exp(-(3**2) / 50), rtol=1e-6)
    np.testing.assert_array_equal(np.delete(w[4], [9, 10]), 1)
    np.testing.assert_array_equal(weight_map(labels, class_weights=None, separation=0), 1)


def test_sigma_beyond_the_image_is_still_exact():
    labels = random_cells(2, (33, 57), 4)
    got = border_weights(labels, w0=1.0, sigma=500.0)
    assert np.abs(got - brute_border(labels, 1.0, 500.0)).max() < 1e-4


def test_input_is_not_changed():
    labels = random_cells(1, (40, 40), 6)
    before = labels.copy()
    labels.flags.writeable = False
    weight_map(labels)
    separate_cells(labels, 4)
    np.testing.assert_array_equal(labels, before)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros((4, 4), np.float32), "integers or bool, got float32"),
        (np.zeros((4, 4, 1), np.int32), r"\[height, width\], got shape \(4, 4, 1\)"),
        (np.full((4, 4), -3), "found -3"),
    ],
)
def test_bad_labels_say_what_was_found(labels, message):
    for function in (weight_map, border_weights, separate_cells):
        with pytest.raises(DataError, match=message):
            function(labels)


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"w0": float("nan")}, "w0 .*nan"),
        ({"w0": -1}, "w0 .*-1"),
        ({"sigma": 0}, "sigma .*0"),
        ({"sigma": float("inf")}, "sigma .*inf"),
        ({"separation": -1}, "separation .*-1"),
        ({"separation": 1.5}, "separation .*1.5"),
        ({"class_weights": "equal"}, "equal"),
        ({"class_weights": (1.0,)}, "1 weights, but class 1 occurs"),
        ({"class_weights": (1.0, -2.0)}, "-2.0"),
    ],
)
def test_bad_settings_say_what_was_received(settings_, message):
    with pytest.raises(ConfigError, match=message):
        weight_map(np.eye(4, dtype=np.int32) * 3, **settings_)


def test_bad_class_maps_say_what_was_found():
    labels = np.eye(4, dtype=np.int32)
    with pytest.raises(DataError, match=r"\(4, 4\), got int64 \(3, 4\)"):
        weight_map(labels, classes=np.zeros((3, 4), np.int64))
    with pytest.raises(DataError, match="got float64"):
        weight_map(labels, classes=np.zeros((4, 4)))


def test_needs_no_tensorflow():
    code = (
        "import sys, keras_unet.weight_maps;"
        "sys.exit(any(m in sys.modules for m in ('tensorflow', 'keras')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
