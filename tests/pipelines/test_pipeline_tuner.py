"""The Tuner: short trainings over a few settings; the Trainer takes the best."""

from __future__ import annotations

import json

import pytest

pytestmark = pytest.mark.tfx
pytest.importorskip("tfx")

import model_artifacts as made
from tfx.components.trainer.fn_args_utils import FnArgs
from tfx.components.tuner.executor import write_best_hyperparameters
from tfx.types import standard_artifacts

from keras_unet.errors import ConfigError, TrainingError
from pipelines import trainer, tuner


def test_it_finds_the_setting_that_learns(tmp_path, monkeypatch):
    import keras_unet

    given = made.fn_args(tmp_path / "out", tmp_path / "runs")
    options = tuner.tuner_config(
        made.TRAIN,
        name=made.NAME,
        runs=str(tmp_path / "runs"),
        space={"learning_rate": [1e-9, 0.02], "model.dropout": [0.0]},
        trials=2,
        steps=6,
    )
    json.dumps(options)
    seen = []
    real = keras_unet.train

    def watched(config, *arguments, **named):
        result = real(config, *arguments, **named)
        seen.append((config.learning_rate, config.steps, result.evaluation.total["mean_dice"]))
        return result

    def killed(config, *arguments, **named):
        if seen:
            raise KeyboardInterrupt
        return watched(config, *arguments, **named)

    def search():
        args = FnArgs(
            train_files=given.train_files, eval_files=given.eval_files, custom_config=options
        )
        found = tuner.tuner_fn(args)
        found.tuner.search(**found.fit_kwargs)
        found.tuner.results_summary()  # as TFX does
        return found.tuner

    monkeypatch.setattr(keras_unet, "train", killed)
    with pytest.raises(KeyboardInterrupt):
        search()
    monkeypatch.setattr(keras_unet, "train", watched)
    best = search()  # only the trial that is left
    assert sorted(rate for rate, _, _ in seen) == [1e-9, 0.02]
    assert {steps for _, steps, _ in seen} == {6}
    wanted = max(seen, key=lambda one: one[2])[0]
    outputs = {
        "best_hyperparameters": [
            made.output(standard_artifacts.HyperParameters, tmp_path / "best")
        ],
        "tuner_results": [made.output(standard_artifacts.TunerResults, tmp_path / "results")],
    }
    write_best_hyperparameters(best, outputs)
    stored = json.loads((tmp_path / "best" / "best_hyperparameters.txt").read_text())
    assert trainer.hyperparameters(stored) == {"learning_rate": wanted, "model": {"dropout": 0.0}}
    assert not list((tmp_path / "runs").glob("cells-tuner*"))


def search(folder, trials=3, rates=(0.01, 0.02, 0.03)):
    """A Tuner's search; the same call goes on with it."""
    given = made.fn_args(folder / "out", folder / "runs")
    options = tuner.tuner_config(
        made.TRAIN,
        name=made.NAME,
        runs=str(folder / "runs"),
        space={"learning_rate": list(rates)},
        trials=trials,
        steps=2,
    )
    args = FnArgs(train_files=given.train_files, eval_files=given.eval_files, custom_config=options)
    found = tuner.tuner_fn(args)
    found.tuner.search(**found.fit_kwargs)
    return found.tuner


def test_ctrl_c_ends_the_search(tmp_path, monkeypatch):
    """`train` returns what it has then; that is no score of a trial, and no reason for the next."""
    import keras_unet

    asked, real = [], keras_unet.train

    def interrupted(config, *given, **named):
        asked.append(config.learning_rate)
        return real(config, *given, **named)._replace(interrupted=True)

    monkeypatch.setattr(keras_unet, "train", interrupted)
    with pytest.raises(KeyboardInterrupt):
        search(tmp_path)
    assert len(asked) == 1
    assert list((tmp_path / "runs").glob("cells-tuner*"))  # the next run goes on with it


@pytest.mark.parametrize("trials", [1, 3])
def test_trainings_that_all_fail_end_the_run_and_are_tried_again(tmp_path, monkeypatch, trials):
    import keras_unet

    tried = []

    def failing(config, *given, **named):
        tried.append(config.learning_rate)
        raise TrainingError(f"step 1: the loss is nan\nrate {config.learning_rate}")

    monkeypatch.setattr(keras_unet, "train", failing)
    with pytest.raises(TrainingError, match="trainings fail: step 1: the loss is nan\nrate 0.0"):
        search(tmp_path, trials)
    assert not list((tmp_path / "runs").glob("cells-tuner*"))
    first, tried[:] = list(tried), []
    with pytest.raises(TrainingError, match="trainings fail"):
        search(tmp_path, trials)
    assert tried == first and len(set(first)) == trials  # from the start, in the same order


def test_a_space_is_checked_beforehand():
    def config(space, **options):
        return tuner.tuner_config(made.TRAIN, name="x", runs="r", space=space, **options)

    assert config(None)["space"].keys() == tuner.SPACE.keys()
    for space, message in (
        ({"learning_rat": [1.0]}, "learning_rat"),
        ({"learning_rate": [-1.0]}, "greater than 0"),
        ({"loss.w0": [1.0, "a"]}, "one type"),
        ({"loss.w0": []}, "one or more"),
        ({"model.normalization": [["batch"]]}, "numbers, or texts"),  # keras-tuner knows no lists
        ({"data.normalization": ["image", "range"]}, "the pipeline sets it"),
        ({"name": ["a"]}, "the pipeline sets it"),
        ({}, "expected one or more"),
    ):
        with pytest.raises(ConfigError, match=message):
            config(space)
    with pytest.raises(ConfigError, match="0 trials"):
        config(None, trials=0)
