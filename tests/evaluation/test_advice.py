"""Advice: what is most telling comes first, follows from the numbers, and its cure helps."""

from __future__ import annotations

import numpy as np
import pytest
from made_evaluation import NAMES, card, make_evaluation, scene

from keras_unet.data.samples import Sample
from keras_unet.evaluation import ScoreSettings
from keras_unet.evaluation.advice import advise
from keras_unet.evaluation.evaluation import show_evaluation
from keras_unet.evaluation.scoring import Scorer

DISCS = [(y, x) for y in (14, 42, 70) for x in (14, 42, 70)]  # of 113 pixels, all in 84 x 84


def discs(places=DISCS, radius=6):
    """Instance labels of discs, one number each."""
    y, x = np.mgrid[:84, :84]
    labels = np.zeros((84, 84), np.int32)
    for number, (v, u) in enumerate(places, start=1):
        labels[(y - v) ** 2 + (x - u) ** 2 <= radius**2] = number
    return labels


def scored(truth, seen, **settings):
    """The evaluation of one image: instance labels, and the foreground that is predicted."""
    scorer = Scorer([card()], ScoreSettings(resamples=0, **settings), 1)
    inside = (truth > 0).astype(np.int32)
    sample = Sample("a", np.zeros((*truth.shape, 1), np.uint8), inside, truth)
    scorer.add(sample, np.eye(2, dtype=np.float32)[(seen > 0).astype(int)])
    return scorer.finish()


def specked():
    """The discs, and 60 pixels by themselves, as an untrained up-convolution leaves them."""
    seen = discs()
    seen[::7, ::9] = np.maximum(seen[::7, ::9], 1)
    return seen


def test_specks_are_counted_measured_and_the_cure_helps():
    evaluation = scored(discs(), specked())
    objects = evaluation.total["objects"]
    false = objects["false_positives"]
    assert false > 50 and objects["false_area"] == 1 and objects["missed_area"] is None
    first = evaluation.advice[0]
    assert first.startswith(f"Pixels are right (mean Dice {evaluation.total['mean_dice']:.3f})")
    assert f"objects are not (object F1 {objects['f1']:.3f})" in first
    assert f"{false} predicted objects match no true one; their median area is 1 px" in first
    assert first.endswith("Drop what is smaller than 2 px: --min-size 2.")
    cured = scored(discs(), specked(), min_size=2)
    assert cured.total["objects"]["f1"] == 1.0
    assert "specks" not in " ".join(cured.advice)


def test_false_objects_that_are_as_large_as_true_ones_are_no_specks():
    evaluation = scored(discs(DISCS[:4]), discs())
    assert evaluation.total["objects"]["false_positives"] == 5
    assert 64 <= evaluation.total["objects"]["false_area"] < 128  # 113, in groups of octaves
    assert "specks" not in " ".join(evaluation.advice)


@pytest.mark.parametrize(
    ("split", "cure"),
    [
        (None, "--split neck"),
        ("none", "--split neck"),
        ("neck", "A higher --neck"),
        ("distance", "A smaller --seed-distance"),
    ],
)
def test_merged_objects_have_the_cure_that_was_not_tried(split, cure):
    truth = discs([(20, 20), (20, 33), (60, 60)])
    seen = truth.copy()
    seen[18:23, 20:33] = 1
    if split in ("neck", "distance"):  # a bridge so thick that no distance tells
        seen[14:27, 20:33] = 1
    evaluation = scored(truth, seen, split=split)
    assert evaluation.total["objects"]["merged"] == 1
    (said,) = [text for text in evaluation.advice if "two or more true ones" in text]
    assert cure in said and "loss.w0" in said
    if split is None:
        assert scored(truth, seen, split="neck").total["objects"]["merged"] == 0


def test_what_concerns_most_objects_comes_first():
    """Three of nine are missed, and two pairs of the others run together."""
    seen = discs(DISCS[:6])
    seen[12:17, 14:42] = 1
    evaluation = scored(discs(), seen)
    said = [text for text in evaluation.advice if "objects" in text and "outline" not in text]
    assert "5 of 9 true objects are missed" in said[0]
    assert "their median area is about 90 px" in said[0]  # 113, in groups of octaves
    assert "holds two or more true ones (9 in all)" in said[1]


@pytest.mark.parametrize(("predicted", "name"), [(0, "background"), (1, "cell")])
def test_one_class_alone_is_all_that_is_said(predicted, name):
    truth = discs()
    evaluation = scored(truth, np.full(truth.shape, predicted))
    (said,) = evaluation.advice
    assert f"Nearly every pixel is predicted to be {name}" in said
    assert "class_weights" not in said  # neither class is rare
    rare = scored(discs(DISCS[:2]), truth * 0)
    assert "loss.class_weights=balanced" in rare.advice[0]


def test_background_alone_where_there_is_no_more_is_right():
    nothing = np.zeros((84, 84), np.int32)
    assert scored(nothing, nothing).advice == ()


def test_an_older_evaluation_without_areas_has_advice_too():
    evaluation = scored(discs(), specked())
    counts = {"a": {k: v for k, v in evaluation.counts["a"].items() if k != "object_areas"}}
    said = advise(evaluation.model_copy(update={"counts": counts}))
    assert said and "specks" not in " ".join(said)


def test_what_is_known_of_a_model_comes_first_and_three_are_printed(capsys):
    scorer = Scorer([card()], ScoreSettings(resamples=0), 1, advice=["Made 27 of 619 steps."])
    truth, image, given = scene(0, noise=0.9)
    scorer.add(Sample("a", image, truth), given)
    evaluation = scorer.finish()
    assert evaluation.advice[0] == "Made 27 of 619 steps."
    assert list(evaluation.advice[1:]) == advise(evaluation)
    many = tuple(f"number {k}" for k in range(5))
    show_evaluation(evaluation.model_copy(update={"advice": many}))
    printed = capsys.readouterr().out
    assert "What to look at next:" in printed and "number 2" in printed
    assert "number 3" not in printed
    show_evaluation(evaluation.model_copy(update={"advice": ()}))
    assert "look at next" not in capsys.readouterr().out


def changed(evaluation, **total):
    return evaluation.model_copy(update={"total": {**evaluation.total, **total}})


def test_advice_follows_the_numbers():
    evaluation = make_evaluation(noise=0.3)
    objects = evaluation.total["objects"]
    many = {**objects, "true_positives": 50, "false_negatives": 50, "merged": 6, "split": 0}
    few = {**many, "merged": 5}
    said = " ".join(advise(changed(evaluation, objects=many, wrong_near_outline=0.71)))
    assert "6 predicted objects hold two or more true ones (100 in all)" in said
    assert "71% of the wrong pixels lie within 2 px" in said
    said = " ".join(advise(changed(evaluation, objects=few, wrong_near_outline=0.3)))
    assert "hold two or more" not in said and "Only 30%" in said
    assert "surer than" not in " ".join(advise(changed(evaluation, calibration_error=0.049)))
    assert "mean confidence" in " ".join(advise(changed(evaluation, calibration_error=0.05)))


def test_advice_names_the_images_that_hold_most_errors():
    evaluation = make_evaluation(noise=0.3)
    counts = {name: {**c, "wrong": [1, 0]} for name, c in evaluation.counts.items()}
    counts[NAMES[3]]["wrong"] = [10, 0]
    said = [
        t for t in advise(evaluation.model_copy(update={"counts": counts})) if "objects" not in t
    ]
    assert said[0].startswith(f"1 of 5 images holds 71% of all wrong pixels: {NAMES[3]}.")
    even = {name: {**c, "wrong": [3, 0]} for name, c in evaluation.counts.items()}
    assert "of 5 images" not in " ".join(advise(evaluation.model_copy(update={"counts": even})))


def test_a_better_threshold_is_told_if_it_is_one():
    evaluation = make_evaluation()
    dice = evaluation.total["dice"]["cell"]
    for gain, expected in ((0.02, True), (0.004, False)):
        curves = {**evaluation.curves, "best_threshold": {"cell": [0.37, dice + gain]}}
        said = " ".join(advise(evaluation.model_copy(update={"curves": curves})))
        assert ("--threshold 0.37" in said) == expected
    curves["best_threshold"] = {"cell": [0.004, dice + 0.02]}
    said = " ".join(advise(evaluation.model_copy(update={"curves": curves})))
    assert "--threshold 0.004." in said  # not 0.00, which takes everything
    settings = evaluation.settings.model_copy(update={"threshold": 0.4})
    update = {"curves": curves, "settings": settings}  # a model of objects has its own
    assert "threshold" not in " ".join(advise(evaluation.model_copy(update=update)))
