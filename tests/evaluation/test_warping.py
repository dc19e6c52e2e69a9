from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from keras_unet.evaluation.isbi import splits_and_mergers, warp, warping_errors

EIGHT = np.ones((3, 3), bool)
MASKS = arrays(bool, st.tuples(st.integers(1, 7), st.integers(1, 7)))


def topology(mask):
    """Objects, and pieces of background (with all around the image)."""
    around = np.pad(~mask, 1, constant_values=True)
    return ndimage.label(mask)[1], ndimage.label(around, EIGHT)[1]


def slow_warp(truth, probability, threshold):
    """Rounds over all mismatches; a flip is allowed where the 3 x 3 patch keeps its topology."""
    now, target = truth.copy(), probability > threshold
    gap = np.abs(probability - threshold).astype(np.float32)
    while True:
        places = sorted(
            zip(*np.nonzero(now != target), strict=True), key=lambda p: (-gap[p], *p[::-1])
        )
        before = now.copy()
        for y, x in places:
            patch = np.pad(now, 1)[y : y + 3, x : x + 3].copy()
            patch[1, 1] = False
            objects = ndimage.label(patch)[0]
            beside = {objects[0, 1], objects[1, 0], objects[1, 2], objects[2, 1]} - {0}
            patch[1, 1] = True
            if len(beside) == 1 and ndimage.label(~patch, EIGHT)[1] == 1:
                now[y, x] = not now[y, x]
        if np.array_equal(now, before):
            return now


@st.composite
def pictures(draw):
    truth = draw(MASKS)
    tenths = draw(arrays(np.int8, truth.shape, elements=st.integers(0, 10)))
    return truth, tenths / 10


@settings(max_examples=80, deadline=None)
@given(pictures())
def test_warp_equals_full_rounds_and_keeps_the_topology(picture):
    truth, probability = picture
    warped = warp(truth, probability, 0.45)
    assert np.array_equal(warped, slow_warp(truth, probability, 0.45))
    assert topology(warped) == topology(truth)


def test_warp_visits_pixels_in_the_challenges_order():
    """Large shifts take many rounds; their end depends on who is looked at in which round."""
    noise = np.random.default_rng(0).normal(size=(2, 48, 48))
    truth = ndimage.gaussian_filter(noise[0], 1.5) > 0
    smooth = ndimage.gaussian_filter(noise[1], 1.5)
    probability = np.clip(0.5 + 2 * smooth, 0, 1).round(1)
    for graded in (probability, (probability > 0.5).astype(float)):
        assert np.array_equal(warp(truth, graded, 0.45), slow_warp(truth, graded, 0.45))


@settings(max_examples=150, deadline=None)
@given(MASKS)
def test_splits_and_mergers_against_labelling_anew(mask):
    """Flip one pixel at a time and count the objects that meet around it."""
    expected = [0, 0]
    before = ndimage.label(mask)[0]
    for y, x in np.ndindex(mask.shape):
        flipped = mask.copy()
        flipped[y, x] = not flipped[y, x]
        labels = ndimage.label(flipped)[0] if mask[y, x] else before
        window = np.s_[max(0, y - 1) : y + 2, max(0, x - 1) : x + 2]
        expected[0 if mask[y, x] else 1] += ring_kinds(labels[window], before[window], y, x)
    assert splits_and_mergers(mask, np.ones_like(mask)) == tuple(expected)


def ring_kinds(after, before, y, x):
    """As the challenge counts: more than two kinds around the pixel, background being one."""
    middle = (min(y, 1), min(x, 1))
    beside = np.ones(after.shape, bool)
    beside[middle] = False
    if len(set(before[beside].tolist())) > 2:
        return 1
    if not before[middle] or len(set(before[beside].tolist())) < 2:
        return 0
    return int(len(set(after[beside].tolist())) > 2)


def test_a_gap_in_a_membrane_is_a_merger_and_a_thick_one_is_nothing():
    truth = np.ones((9, 9), bool)
    truth[4] = False
    gap = truth.astype(float)
    gap[4, 3:5] = 1.0
    assert warping_errors(truth, gap, 0.5) == (2, 0, 2)
    thick = truth.astype(float)
    thick[5:7] = 0.0
    assert warping_errors(truth, thick, 0.5) == (0, 0, 0)
    wall = truth.astype(float)
    wall[:, 4] = 0.0
    found = warping_errors(truth, wall, 0.5)
    assert found.mergers == 0 and found.splits == found.mismatches == 2
