from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage
from skimage.metrics import variation_of_information
from skimage.segmentation import watershed

from keras_unet.evaluation.isbi import label4, segment_scores, thin

LABELS = arrays(np.int32, (4, 5), elements=st.integers(0, 3))


@settings(max_examples=60, deadline=None)
@given(LABELS, LABELS)
def test_v_rand_counts_pairs_of_pixels(truth, proposal):
    """Every ordered pair of true pixels, a pixel with itself included, one by one."""
    found = segment_scores(truth, proposal)
    pixels = list(zip(truth[truth > 0].tolist(), proposal[truth > 0].tolist(), strict=True))
    if not pixels:
        assert math.isnan(found.v_rand) and math.isnan(found.v_info)
        return
    joint = same_truth = same_proposal = 0
    for (i, (t, p)), (j, (u, q)) in itertools.product(enumerate(pixels), repeat=2):
        together = i == j or (p == q and p > 0)
        same_truth += t == u
        same_proposal += together
        joint += t == u and together
    assert (found.joint, found.truth, found.proposal) == (joint, same_truth, same_proposal)
    assert found.v_rand == pytest.approx(2 * joint / (same_truth + same_proposal))


@settings(max_examples=60, deadline=None)
@given(LABELS, LABELS)
def test_v_info_against_entropies_of_scikit_image(truth, proposal):
    found = segment_scores(truth, proposal).v_info
    inside = truth > 0
    if not inside.any():
        return
    lone = np.arange(inside.sum()) + 10  # each 0 of the proposal is a segment of its own
    relabelled = np.where(proposal[inside] > 0, proposal[inside], lone)
    one = np.zeros_like(relabelled)
    given_proposal, given_truth = variation_of_information(truth[inside], relabelled)[::-1]
    truth_entropy = sum(variation_of_information(truth[inside], one))
    proposal_entropy = sum(variation_of_information(relabelled, one))
    if truth_entropy < 1e-12 or proposal_entropy < 1e-12:
        assert found == 0
        return
    # I = H(T) − H(T | S) = H(S) − H(S | T), whichever order the library gives the two in
    twice = truth_entropy + proposal_entropy - given_proposal - given_truth
    assert found == pytest.approx(twice / (truth_entropy + proposal_entropy), abs=1e-9)


def test_the_proposals_zeros_are_no_segment():
    truth = np.array([[1, 1, 2, 2]])
    merged = segment_scores(truth, np.ones_like(truth))
    nothing = segment_scores(truth, np.zeros_like(truth))
    assert merged.proposal == 16
    assert nothing.proposal == nothing.joint == 4


@settings(max_examples=40, deadline=None)
@given(arrays(bool, (7, 8)))
def test_thinning_keeps_segments_and_leaves_thin_lines(inside):
    labels = thin(inside)
    basins, count = ndimage.label(inside)
    if not count:
        assert (labels == 1).all()
        return
    assert (labels[inside] == basins[inside]).all()
    assert set(np.unique(labels)) <= set(range(count + 1))
    # wherever two segments grow side by side there is a line: no two of them touch
    for a, b in ((labels[1:], labels[:-1]), (labels[:, 1:], labels[:, :-1])):
        touching = (a > 0) & (b > 0) & (a != b)
        assert not touching.any()


def test_thinning_by_hand():
    inside = np.zeros((3, 6), bool)
    inside[:, 0] = inside[:, 5] = True
    assert thin(inside).tolist() == 3 * [[1, 1, 1, 0, 2, 2]]  # the left one floods first
    inside[:, 5] = False
    assert (thin(inside) == 1).all()  # one segment floods everything, without a line


def test_thinning_is_a_watershed_but_for_ties():
    rng = np.random.default_rng(0)
    inside = ndimage.gaussian_filter(rng.normal(size=(80, 90)), 2) > 0
    reference = watershed(~inside, label4(inside), connectivity=1, watershed_line=True)
    assert np.mean(thin(inside) != reference) < 0.03
