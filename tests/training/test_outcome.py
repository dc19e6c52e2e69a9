"""What a run says at its end: too short, still rising, learned by heart; and how to go on."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from rich.console import Console

from keras_unet.data.synthetic import write_dataset
from keras_unet.evaluation import read_evaluation
from keras_unet.machine import Machine
from keras_unet.training import load_config, make_config, outcome, plan, train
from keras_unet.training.outcome import Outcome, expected_steps, lessons, still_rising

MACHINE = Machine(cores=2, memory=8e9, bfloat16=True)


def config(**settings):
    return make_config({"data": {"images": "cells"}, **settings})


def history(scores, loss=None, val_loss=None):
    """Rows of history.csv, one a hundred steps."""
    count = len(scores)
    return [
        {"step": 100 * (k + 1), "val_mean_dice": score, "loss": a, "val_loss": b}
        for k, (score, a, b) in enumerate(
            zip(scores, loss or [1.0] * count, val_loss or [1.0] * count, strict=True)
        )
    ]


def saturating(count, tau, noise=0.0, seed=0):
    """A score whose error falls from 0.5 to 0.05; `tau` is the share of the run that it takes."""
    share = np.arange(1, count + 1) / count
    error = 0.05 + 0.45 * np.exp(-share / tau)
    return 1 - error * (1 + np.random.default_rng(seed).normal(0, noise, count))


@pytest.mark.parametrize("count", [3, 4, 7, 20, 40])
def test_a_score_that_still_rises_is_told_from_one_that_is_level(count):
    assert still_rising(saturating(count, 0.5)) is True
    assert still_rising(saturating(count, 0.04)) is False
    assert still_rising([0.9] * count) is False
    assert still_rising(saturating(count, 0.5)[::-1]) is False
    assert still_rising(saturating(count, 0.5)[:2]) is None


def test_noise_is_no_rise():
    """Errors of a level that vary by a tenth of themselves, in 200 runs each."""
    for count in (4, 10, 20, 40):
        found = [still_rising(saturating(count, 0.03, 0.1, seed)) for seed in range(200)]
        assert np.mean(found) < 0.15
    found = [still_rising(saturating(20, 0.5, 0.03, seed)) for seed in range(200)]
    assert np.mean(found) > 0.95


def test_one_lucky_validation_is_no_rise():
    scores = [0.9] * 19
    assert still_rising([*scores, 0.99]) is False


def test_what_is_expected_is_what_the_plan_says(tmp_path):
    data = write_dataset(tmp_path / "cells", train=3, val=1, size=(64, 80), seed=0) / "train"
    for minutes, steps in ((3, None), (3, 7), (None, 7)):
        given = {} if steps is None else {"steps": steps}
        made = plan(data, label_kind="instances", minutes=minutes, settings=given, machine=MACHINE)
        assert made.config.tile is not None
        found = expected_steps(made.config, MACHINE, tile=made.config.tile, channels=1, classes=2)
        (reason,) = [c.reason for c in made.choices if c.key == "steps_per_epoch"]
        assert f"in about {found} steps of" in reason
    half = MACHINE.model_copy(update={"devices": 2})
    each = make_config({**made.config.model_dump(), "minutes": 3, "steps": None, "batch_size": 4})
    args = {"tile": made.config.tile, "channels": 1, "classes": 2}
    assert expected_steps(each, half, **args) > 1.5 * expected_steps(each, MACHINE, **args)


def test_a_run_that_was_too_short_says_what_was_made_of_the_plan(tmp_path):
    (tmp_path / "plan.toml").write_text("")
    short = Outcome(27, 20.0, 1.0, False, history([0.89, 0.94, 0.947]))
    (said,) = lessons(short, config(minutes=20), 619, tmp_path)
    assert said.startswith("Made 27 of the 619 steps that the plan expected")
    assert "at this speed they take 459 minutes" in said  # 20 * 619 / 27
    assert "the score was still rising" in said
    assert "--set minutes=459" in said and f"--set init={tmp_path}" in said
    level = short._replace(history=history([0.9, 0.9, 0.9]))
    (said,) = lessons(level, config(minutes=20), 619, tmp_path)
    assert "27 of the 619" in said and "rising" not in said
    (tmp_path / "plan.toml").unlink()
    (said,) = lessons(short, config(minutes=20), 619, tmp_path)
    assert "that a plan expects of such a run here" in said


def test_a_run_that_was_long_enough_says_nothing_unless_it_was_still_rising(tmp_path):
    level = Outcome(600, 20.0, 1.0, False, history([0.9] * 8))
    rising = level._replace(history=history(saturating(8, 0.5)))
    for expected in (619, 1000, None):
        assert lessons(level, config(minutes=20), expected, tmp_path) == ()
        (said,) = lessons(rising, config(), expected, tmp_path)
        assert said.startswith("The validation score was still rising: train longer")
        assert "(--set minutes=40)" in said
    (said,) = lessons(rising, config(steps=600), 600, tmp_path)
    assert "(--set steps=1200)" in said


def test_a_run_that_was_stopped_is_told_how_it_goes_on_and_patience_is_no_fault(tmp_path):
    stopped = Outcome(27, 1.0, 0.05, True, history([0.9]))
    (said,) = lessons(stopped, config(minutes=20), 619, tmp_path)
    assert "27 of the 619" in said and f"keras-unet train --resume {tmp_path}" in said
    (said,) = lessons(stopped, config(minutes=20), None, tmp_path)  # begun by 0.3
    assert said.startswith("Stopped after 27 steps: go on with")
    ended = stopped._replace(interrupted=False)
    assert lessons(ended, config(minutes=20, patience=3), 619, tmp_path) == ()


def test_images_that_are_learned_by_heart_are_told(tmp_path):
    count = 12
    falling = np.linspace(0.5, 0.1, count).tolist()
    rising = [0.4, 0.3, 0.25, 0.2, 0.21, 0.22, 0.24, 0.25, 0.26, 0.28, 0.3, 0.3]
    scores = [0.5, 0.7, 0.8, 0.9, 0.91, *[0.9] * 7]
    made = Outcome(1200, 20.0, 1.0, False, history(scores, falling, rising))
    (said,) = lessons(made, config(minutes=20), 1200, tmp_path)
    assert "rose from 0.21 (step 400) to 0.3 while" in said and "by heart" in said
    assert said.endswith("best.keras is of step 500.")
    for loss, other in ((falling, falling), ([0.3] * count, rising)):
        good = made._replace(history=history(scores, loss, other))
        assert lessons(good, config(minutes=20), 1200, tmp_path) == ()


def test_a_run_keeps_what_was_expected_and_its_report_says_what_came_of_it(tmp_path, monkeypatch):
    data = write_dataset(tmp_path / "cells", train=2, val=1, size=(48, 48), seed=0)
    monkeypatch.setattr(outcome, "step_seconds", lambda *_: 1e-6)  # a machine out of this world
    where = {"images": data / "train", "validation": data / "val", "label_kind": "instances"}
    small = ["model.filters=2", "model.depth=1", "tile=44", "augment=flips", "steps_per_epoch=500"]
    settings = [*small, f"output={tmp_path}", "name=run", "minutes=0.002"]
    found = train(load_config(None, settings, data=where), Console(file=io.StringIO()))
    record = json.loads((found.folder / "run.json").read_text())
    assert record["expected_steps"] == 120_000
    first = found.evaluation.advice[0]
    assert "of the 120,000 steps that a plan expects of such a run here" in first
    assert read_evaluation(found.folder).advice == found.evaluation.advice
    assert "of the 120,000 steps" in (found.folder / "report.html").read_text()
    assert train(resume=found.folder, verbose=0).evaluation.advice[0] == first
