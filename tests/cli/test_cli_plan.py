"""`keras-unet plan`, and `train` without a configuration: planned, said, and kept."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from keras_unet.cli.app import app
from keras_unet.data.synthetic import write_dataset
from keras_unet.training.config import load_config


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cells")
    return write_dataset(folder, train=3, val=1, size=(48, 48), seed=0) / "train"


def run(*arguments, ok=True):
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert (result.exception is None) == ok, result.output
    return " ".join(result.output.split())


def test_a_plan_is_printed_or_written_and_can_be_trained_with(data, tmp_path):
    file = tmp_path / "plans" / "train.toml"
    printed = run("plan", data, "--instances", "--minutes", 3, "--set", "seed=5", "--output", file)
    assert "model.padding = same: of a" in printed
    assert f"train --config {file}" in printed
    config = load_config(file)
    assert (config.minutes, config.seed, config.data.images) == (3.0, 5, data)
    assert (config.model.padding, config.tile) == ("same", 48)
    assert 'padding = "same"' in run("plan", data, "--instances")


def test_train_without_a_configuration_plans_what_is_not_set(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = ["model.filters=2", "model.depth=1", "steps=1", "steps_per_epoch=1", "name=it"]
    options = [part for setting in small for part in ("--set", setting)]
    printed = run("train", data, "--instances", *options)
    assert "loss.dice = 1: separate objects" in printed
    assert "model.filters = " not in printed  # set, so not chosen
    folder = tmp_path / "runs" / "it"
    config = load_config(folder / "config.toml")
    assert (config.model.filters, config.loss.dice, config.loss.w0) == (2, 1.0, 5.0)
    assert load_config(folder / "plan.toml") == config
    assert "Open runs/it/report.html" in printed
    assert (folder / "report.html").is_file()

    file = tmp_path / "own.toml"  # a file is a whole configuration: nothing is planned
    file.write_text(
        "steps = 1\nsteps_per_epoch = 1\nname = 'own'\naugment = 'none'\n"
        "[model]\nfilters = 2\ndepth = 1\n"
    )
    printed = run("train", data, "--instances", "--config", file)
    assert "separate objects" not in printed
    loss = load_config(tmp_path / "runs" / "own" / "config.toml").loss
    assert (loss.dice, loss.w0) == (0.0, 10.0)
    assert not (tmp_path / "runs" / "own" / "plan.toml").exists()


def test_folds_are_cross_validated_and_gone_on_with(data, tmp_path, monkeypatch):
    from keras_unet.training import cross_validation

    called = []

    def stand_in(config, folds, console, *, resume, files, loaded):
        called.append((config, folds, resume, files))
        scores = {"mean_dice": 0.5}
        report = {"folds": 2, "images": 3, "mean": scores, "std": {}, "pooled": scores}
        return cross_validation.CrossValidation(tmp_path / "cv", (), report)

    monkeypatch.setattr(cross_validation, "cross_validate", stand_in)
    printed = run("train", data, "--instances", "--folds", 2, "--set", "steps=1")
    assert f"predict {tmp_path / 'cv'}" in printed
    assert f"Open {tmp_path / 'cv' / 'fold_0' / 'report.html'}" in printed
    config, folds, resume, files = called[0]
    assert (config.steps, folds, resume) == (1, 2, None)
    assert "padding" in files["plan.toml"]
    (tmp_path / "splits.json").write_text("{}")
    run("train", "--resume", tmp_path)
    assert called[1][2] == tmp_path
    said = run("train", "--resume", tmp_path, "--set", "steps=9", ok=False)
    assert "own settings alone" in said.replace("│ ", "")
