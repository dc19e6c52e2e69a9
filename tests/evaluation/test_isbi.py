from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from keras_unet.errors import ConfigError, DataError
from keras_unet.evaluation.isbi import THRESHOLDS, isbi2012, isbi_counts, rates

HALF = 5  # the place of 0.5 among the thresholds


def oracle(shared, name):
    folder = shared / "oracles" / "isbi_metrics"
    number, kind = name.split("/")
    truth = np.asarray(Image.open(folder / f"labels_{number}.png"))
    proposal = np.asarray(Image.open(folder / f"{kind}_{number}.png")) / 255.0
    return truth, proposal, json.loads((folder / "values.json").read_text())[name]


# binary and graded proposals; the other eleven were compared once and agree as exactly
@pytest.mark.parametrize("name", ["14/erode1", "0/holes", "14/shift2", "14/noisygt", "0/smooth"])
def test_equals_what_the_challenges_own_code_printed(shared, name):
    truth, proposal, expected = oracle(shared, name)
    # the smooth proposal has no warping error among the printed values
    result = isbi2012(truth, proposal, warping="min_splits_mergers" in expected)
    table = result["per_threshold"]
    found = {
        "vrand_thin_max": result["v_rand"],
        "vinfo_thin_max": result["v_info"],
        "vrand_thin_t0.5": table["v_rand"][HALF],
        "vinfo_thin_t0.5": table["v_info"][HALF],
        "vrand_nothin_t0.5": table["v_rand_unthinned"][HALF],
        "vinfo_nothin_t0.5": table["v_info_unthinned"][HALF],
        "vrand_nothin_max": 1 - result["rand_error"],
        "pixel_maxF": 1 - result["pixel_error"],
        "pixel_error_t0.5": table["wrong_pixels"][HALF],
        "min_splits_mergers": result["warping_error"],
    }
    if "warping_error_t0.5" in expected:
        found["warping_error_t0.5"] = table["mismatches"][HALF]
    shared_keys = found.keys() & expected.keys()
    assert len(shared_keys) >= 9
    for key in shared_keys:
        assert found[key] == pytest.approx(expected[key], abs=1e-12), key


def test_thresholds_are_summed_up_as_the_scripts_do():
    assert len(THRESHOLDS) == 11
    assert THRESHOLDS[3] == 0.1 + 0.1 + 0.1 != 0.3
    assert THRESHOLDS[-1] < 1.0  # a probability of 1 is above every threshold


def cells(seed, shape=(24, 24)):
    """A grid of four cells with membranes, and a noisy proposal."""
    truth = np.ones(shape, np.uint8)
    truth[shape[0] // 2] = 0
    truth[:, shape[1] // 2] = 0
    noise = np.random.default_rng(seed).normal(0, 0.25, shape)
    return truth, np.clip(truth * 0.6 + 0.2 + noise, 0, 1)


def test_one_threshold_is_chosen_for_the_whole_stack():
    """The best average, not the average of each slice's best; F-scores of pooled counts."""
    truth, proposal = cells(0)
    stack = np.stack([truth, truth])
    # the second slice is the first at a lower contrast, so that its best threshold is another
    both = np.stack([proposal, proposal * 0.3])
    result = isbi2012(stack, both, warping=False)
    each = [isbi2012(truth, image, warping=False) for image in both]
    for name in ("v_rand", "v_info"):
        curves = np.array([one["per_threshold"][name] for one in each])
        averaged = curves.mean(axis=0)
        assert result["per_threshold"][name] == pytest.approx(averaged)
        assert result[name] == pytest.approx(averaged.max())
        assert result["best_threshold"][name] == THRESHOLDS[int(averaged.argmax())]
        assert result[name] < curves.max(axis=1).mean() - 1e-3

    masks = both > 0.5
    hits = (masks & (stack > 0)).sum()
    pooled = 2 * hits / (masks.sum() + stack.sum())
    assert result["per_threshold"]["pixel_f_score"][HALF] == pytest.approx(pooled)


def test_a_perfect_proposal_and_names_of_the_inside():
    truth, _ = cells(0)
    for labels in (truth, truth * 255, truth > 0):
        result = isbi2012(labels, truth.astype(np.float64))
        assert result["v_rand"] == pytest.approx(1)
        assert result["v_info"] == pytest.approx(1)
        errors = (result["pixel_error"], result["rand_error"], result["warping_error"])
        assert errors == pytest.approx((0, 0, 0))
    assert json.loads(json.dumps(result)) == result


def test_own_thresholds_and_no_warping():
    truth, proposal = cells(1)
    result = isbi2012(truth, proposal, [0.5], warping=False)
    assert result["warping_error"] is None
    assert "mismatches" not in result["per_threshold"]
    assert result["per_threshold"]["threshold"] == [0.5]
    wrong = np.mean((proposal > 0.5) != (truth > 0))
    assert result["per_threshold"]["wrong_pixels"] == pytest.approx([wrong])


def test_slices_without_a_cell_are_left_out_of_the_averages():
    truth, proposal = cells(2)
    blank = np.zeros_like(truth)
    alone = isbi2012(truth, proposal, [0.5], warping=False)
    pair = isbi2012(np.stack([truth, blank]), np.stack([proposal] * 2), [0.5], warping=False)
    assert pair["v_rand"] == alone["v_rand"]
    assert pair["pixel_error"] > alone["pixel_error"]
    none = isbi2012(blank, proposal, [0.5, 0.6])
    assert np.isnan(none["v_rand"]) and np.isnan(none["v_info"])


def test_bad_input_is_refused():
    truth, proposal = cells(3)
    with pytest.raises(DataError, match="one shape"):
        isbi2012(truth, proposal[:-1])
    with pytest.raises(DataError, match="0 and 1, or 0 and 255"):
        isbi2012(truth * 2, proposal)
    with pytest.raises(DataError, match="float in"):
        isbi2012(truth, truth)
    with pytest.raises(DataError, match=r"in \[0, 1\]"):
        isbi2012(truth, proposal * 255)
    with pytest.raises(DataError, match=r"in \[0, 1\]"):
        isbi2012(truth, np.where(proposal > 0.5, np.nan, proposal))
    with pytest.raises(ConfigError, match="thresholds"):
        isbi2012(truth, proposal, [0.5, 1.5])
    with pytest.raises(ConfigError, match="thresholds"):
        isbi2012(truth, proposal, [])


def test_a_threshold_that_leaves_nothing_is_no_good_warping():
    """An empty mask has neither splits nor mergers; the challenge's minimum would take it."""
    truth, proposal = cells(4)
    proposal = proposal * 0.85  # nothing is above 0.9
    result = isbi2012(truth, proposal)
    table = result["per_threshold"]["split_and_merge_pixels"]
    assert table[-1] == 0
    assert result["best_threshold"]["warping_error"] < 0.85
    chosen = THRESHOLDS.index(result["best_threshold"]["warping_error"])
    assert result["warping_error"] == table[chosen] == min(table[:9])
    none = isbi2012(truth, np.zeros(truth.shape))
    assert np.isnan(none["warping_error"]) and "warping_error" not in none["best_threshold"]


def test_counts_of_slices_add_up_to_the_stack():
    truth, proposal = cells(5)
    stack, both = np.stack([truth, truth.T]), np.stack([proposal, proposal.T * 0.8])
    counts = [isbi_counts(t, p) for t, p in zip(stack, both, strict=True)]
    whole = isbi2012(stack, both)
    for name, value in rates(counts[0] + counts[1]).items():
        assert value == whole[name]
    each = rates(np.stack(counts))  # two slices in one call
    assert each["v_rand"][1] == isbi2012(stack[1], both[1])["v_rand"]
