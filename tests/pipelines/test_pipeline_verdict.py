"""Thresholds, slices and the page that tells of them; needs no TFX."""

from __future__ import annotations

import pytest

from keras_unet.errors import ConfigError
from pipelines.evaluator.known import require_known
from pipelines.evaluator.pages import verdict_page
from pipelines.evaluator.policy import EvaluationPolicy, Threshold
from pipelines.evaluator.slices import Slice, Trait, slices
from pipelines.evaluator.verdict import judge
from pipelines.sections import EvaluationSettings

PARTS = [Slice("", ("a", "b")), Slice("group=x", ("a",)), Slice("density=low", ("b",))]


def scored(whole, x, low):
    values = {"": whole, "group=x": x, "density=low": low}
    return {name: {"mean_iou": v, "pixel_error": 0.1, "iou.a.b": v} for name, v in values.items()}


@pytest.mark.parametrize(
    ("threshold", "model", "baseline", "blessed", "why"),
    [
        ({"at_least": 0.5}, (0.5, 0, 0), None, True, "first"),
        ({"at_least": 0.5}, (0.49, 1, 1), None, False, "mean_iou is 0.4900, expected at least"),
        ({"at_most": 0.5}, (0.6, 0, 0), None, False, "at most 0.5"),
        ({"at_least": 0.5, "slice": "group"}, (1, 0.4, 1), None, False, "on group=x"),
        ({"at_least": 0.5, "slice": "group=y"}, (1, 1, 1), None, False, "no such slice; found"),
        ({"at_least": 0.5, "slice": "density"}, (0, 0, 0.6), None, True, ""),
        ({"at_least": 0.5, "slice": "density"}, (1, 1, None), None, False, "could be judged"),
        ({"at_least": 0.5}, (None, 1, 1), None, False, "is undefined"),
        ({"at_least": 1, "slice": "group", "min_images": 2}, (1, 0, 1), None, False, "small"),
        ({"min_gain": 0.0}, (0.5, 0, 0), (0.5, 0, 0), True, "compared with the baseline"),
        ({"min_gain": 0.0}, (0.5, 0, 0), (None, 0, 0), False, "could be judged"),
        ({"min_gain": 0.01}, (0.505, 0, 0), (0.5, 0, 0), False, "gain +0.0050"),
        ({"min_gain": -0.01}, (0.49, 0, 0), (0.5, 0, 0), True, ""),
        ({"min_gain": -0.01, "slice": "group"}, (1, 0.4, 0), (0, 0.5, 0), False, "group=x"),
        ({"score": "pixel_error", "min_gain": 0.0}, (1, 1, 1), (0, 0, 0), True, ""),
    ],
)
def test_each_kind_of_threshold(threshold, model, baseline, blessed, why):
    rule = Threshold(**{"score": "mean_iou", **threshold})
    before = None if baseline is None else scored(*baseline)
    verdict = judge([rule], PARTS, scored(*model), before)
    assert verdict.blessed is blessed
    assert why in verdict.message


def test_a_blessing_says_how_many_conditions_were_judged():
    rules = [Threshold(score="mean_iou", at_least=0), Threshold(score="iou.a.b", min_gain=0)]
    before = scored(None, 0, 0)
    verdict = judge(rules, PARTS, scored(1, 1, 1), before)
    assert verdict.blessed
    assert "1 of 2 conditions hold, the others could not be judged" in verdict.message


def test_what_is_lower_when_better_and_names_with_dots():
    better, worse = scored(1, 1, 1), scored(1, 1, 1)
    for part in worse.values():
        part["pixel_error"] = 0.2
    rule = Threshold(score="pixel_error", min_gain=0.05)
    assert judge([rule], PARTS, better, worse).blessed
    assert not judge([rule], PARTS, worse, better).blessed
    assert judge([Threshold(score="iou.a.b", min_gain=0)], PARTS, better, worse).blessed
    with pytest.raises(ConfigError, match="no such score; expected one of mean_iou"):
        judge([Threshold(score="mean_io", at_least=0)], PARTS, better, None)


def test_densities_make_slices():
    traits = {name: Trait("", value) for name, value in zip("abcdef", range(6), strict=True)}
    found = {part.name: part.images for part in slices(traits, 3)}
    assert found == {
        "": tuple("abcdef"),
        "density=low": ("a", "b"),
        "density=middle": ("c", "d"),
        "density=high": ("e", "f"),
    }
    given = {part.name: part.images for part in slices(traits, (0.5, 100.0))}
    assert list(given) == ["", "density=low", "density=middle"]  # none is beyond 100
    assert given["density=low"] == ("a",)
    same = {name: Trait("g", 2.0) for name in "ab"}
    assert [part.name for part in slices(same, 2)] == ["", "group=g", "density=high"]


def test_a_policy_that_says_nothing_is_refused():
    for wrong in (
        {"thresholds": [{"score": "mean_iou"}]},
        {"thresholds": [{"score": "mean_iou", "at_least": 1, "slice": "size"}]},
        {"density": 0},
        {"density": [2.0, 1.0]},
        {"treshold": []},
    ):
        with pytest.raises(ValueError):
            EvaluationPolicy.model_validate(wrong)


def test_models_of_objects_are_judged_by_objects_and_those_of_classes_by_pixels():
    """As happened: specks everywhere, and the Dice no worse."""
    before, now = ({"objects.f1": f1, "mean_dice": d} for f1, d in ((0.401, 0.91), (0.114, 0.92)))
    verdicts = {}
    for kind in ("instances", "semantic"):
        policy = EvaluationSettings().policy(kind)
        require_known(policy, ("background", "cell"), instances=kind == "instances")
        verdicts[kind] = judge(policy.thresholds, PARTS[:1], {"": now}, {"": before})
        first = judge(policy.thresholds, PARTS[:1], {"": before}, None)
        assert first.blessed
    assert verdicts["semantic"].blessed and not verdicts["instances"].blessed
    assert "objects.f1 is 0.1140 (baseline model 0.4010)" in verdicts["instances"].message


def test_thresholds_that_are_given_hold_for_every_kind():
    given = ({"score": "brier", "at_most": 0.2},)
    for thresholds, expected in ((given, ["brier"]), ((), [])):
        settings = EvaluationSettings(thresholds=thresholds, density=4)
        for kind in ("instances", "semantic"):
            policy = settings.policy(kind)
            assert [one.score for one in policy.thresholds] == expected
            assert policy.density == 4
    # where objects are not scored there is nothing else to go by
    pixels = EvaluationSettings(scores={"objects": False}).policy("instances")
    assert [one.score for one in pixels.thresholds] == ["mean_dice"]
    require_known(pixels, ("background", "cell"), instances=True)


def test_the_page_names_conditions_and_slices():
    rule = Threshold(score="mean_iou", slice="group", at_least=0.5)
    model, before = scored(0.9, 0.4, None), scored(0.8, 0.6, 0.1)
    parts = [*PARTS[:2], Slice("density=<b>", ("b",), "0 to 1")]
    model["density=<b>"], before["density=<b>"] = model["density=low"], before["density=low"]
    page = verdict_page(judge([rule], parts, model, before), parts, model, before)
    assert "<h1>Not blessed</h1>" in page and "at least 0.5" in page and "fails" in page
    assert (
        ">before<" in page and "0.4000" in page and "0.6000" in page and "density=&lt;b&gt;" in page
    )
    alone = verdict_page(judge([], parts, model, None), parts, model, None)
    assert "no threshold is given" in alone and ">before<" not in alone


@pytest.mark.parametrize(
    ("policy", "instances", "message"),
    [
        ({"score": "mean_dise", "at_least": 0.5}, True, "no such score; .*mean_dice"),
        ({"score": "iou.nucleus", "at_least": 0.5}, True, "no such score; .*iou.cell"),
        ({"score": "objects.f1", "at_least": 0.5}, False, "no such score"),
        ({"score": "objects.merged", "min_gain": 0}, True, "neither high nor low is better"),
        ({"score": "mean_dice", "at_least": 1.5}, True, "at_least .* is 1.5; expected 0 to 1"),
        ({"score": "pixel_error", "at_most": -0.1}, True, "at_most .* is -0.1; expected 0 to 1"),
        ({"score": "brier", "min_gain": 2.1}, True, "min_gain .*; expected -2 to 2"),
        ({"score": "objects.merged", "at_most": -1}, True, "expected 0 or more"),
        ({"score": "mean_iou", "at_least": 0, "slice": "density=q1"}, True, "density=middle"),
    ],
)
def test_what_will_not_be_there_is_found_before_the_training(policy, instances, message):
    classes = ("background", "cell")
    with pytest.raises(ConfigError, match=message):
        require_known(EvaluationPolicy(thresholds=[policy]), classes, instances=instances)


def test_what_will_be_there_is_known():
    scores = ["mean_dice", "iou.cell", "objects.f1", "objects.average_precision.0.5", "brier"]
    policy = EvaluationPolicy(
        thresholds=[
            *({"score": score, "at_least": 0.0} for score in scores),
            {"score": "mean_iou", "min_gain": 0.0, "slice": "density=q4"},
            {"score": "mean_iou", "min_gain": 0.0, "slice": "group=anything"},
        ],
        density=(1.0, 2.0, 3.0),
    )
    require_known(policy, ("background", "cell"), instances=True)
    wrong = EvaluationPolicy(scores={"isbi": True})
    with pytest.raises(ConfigError, match="two classes"):
        require_known(wrong, ("background", "a", "b"), instances=False)
    with pytest.raises(ConfigError, match="symmetry: unknown"):
        require_known(
            EvaluationPolicy(prediction={"symmetry": "flips"}), ("a", "b"), instances=True
        )
