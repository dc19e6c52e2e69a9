"""The Trainer's run_fn: what it leaves, and that a killed one goes on."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.tfx
pytest.importorskip("tfx")

import model_artifacts as made
import numpy as np

from keras_unet.data import Normalization
from keras_unet.errors import ConfigError
from keras_unet.evaluation.evaluation import read_evaluation
from keras_unet.serving import publish_bundle
from keras_unet.serving.card import read_served_card
from keras_unet.training.checkpoint import Checkpoints
from keras_unet.training.run_folder import locked_run
from pipelines import models, trainer


def test_it_writes_what_is_published_and_what_is_evaluated(tmp_path):
    model = made.trained()
    version = publish_bundle(models.serving_folder(model.uri), tmp_path / made.NAME)
    assert version.name == "1"
    card = read_served_card(version)
    assert card.model.config["loss"]["w0"] == 10.0 and card.model.classes[0] == "background"
    assert models.load(model.uri).card == card.model
    run = Path(model.uri).parent / "model_run"
    kept = {path.name for path in run.iterdir()}
    assert {"config.toml", "history.csv", "tensorboard", "overlays", "curves.png"} <= kept
    assert "best.keras" not in kept and not any(name.startswith(".") for name in kept)
    assert any((run / "tensorboard").rglob("events*"))
    code = json.loads((run / "code.json").read_text())
    assert {"tfx", "keras_unet", "tensorflow", "python"} <= set(code)
    assert read_evaluation(run).images.keys() == {f"Split-eval-{k}" for k in range(4)}
    left = [path for path in (made.place() / "runs").rglob("*") if path.is_file()]
    assert left == []  # of a finished run; the border terms came with the records


def test_a_killed_trainer_goes_on_to_the_same_weights(tmp_path, monkeypatch, capsys):
    """Stopped without warning at a checkpoint in the middle, then run again with other outputs."""

    class Killed(BaseException):
        pass

    write = Checkpoints.write

    def last_words(self, step, *arguments, **named):
        write(self, step, *arguments, **named)
        raise Killed

    monkeypatch.setattr(Checkpoints, "write", last_words)
    runs = tmp_path / "runs"
    with pytest.raises(Killed):
        trainer.run_fn(made.fn_args(tmp_path / "first", runs))
    monkeypatch.undo()
    assert not (tmp_path / "first" / "model").exists()
    (folder,) = runs.glob("cells-*")
    begun = json.loads((folder / "code.json").read_text())
    monkeypatch.setattr(trainer, "code", lambda: {**begun, "commit": "later"})
    with locked_run(folder), pytest.raises(ConfigError, match="is training in this folder"):
        trainer.run_fn(made.fn_args(tmp_path / "second", runs))
    capsys.readouterr()
    with made.answers_here():
        trainer.run_fn(made.fn_args(tmp_path / "third", runs))
    assert "Going on at step 2" in capsys.readouterr().out
    found = models.load(str(tmp_path / "third" / "model")).network.get_weights()
    whole = models.load(made.trained().uri).network.get_weights()
    for one, other in zip(found, whole, strict=True):
        np.testing.assert_array_equal(one, other)
    assert not folder.exists()
    code = json.loads((tmp_path / "third" / "model_run" / "code.json").read_text())
    assert code == {**begun, "ended_with": {**begun, "commit": "later"}}


def test_the_commit_is_that_of_this_code(tmp_path, monkeypatch):
    """Not of a checkout that the environment happens to lie in."""

    def git(*arguments):
        author = ["-c", "user.name=a", "-c", "user.email=a"]
        done = subprocess.run(
            ["git", *author, *arguments], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    copy = tmp_path / "env" / "trainer.py"
    copy.parent.mkdir()
    copy.write_text("first")
    (tmp_path / ".gitignore").write_text("env\n")
    git("init")
    git("add", ".gitignore")
    git("commit", "-m", "somebody else's")
    monkeypatch.setattr(trainer, "__file__", str(copy))
    assert not {"commit", "changed"} & set(trainer.code())
    git("add", "-f", "env/trainer.py")
    git("commit", "-m", "ours")
    first = trainer.code()
    assert first["commit"] == git("rev-parse", "HEAD") and "changed" not in first
    copy.write_text("second")
    second = trainer.code()
    copy.write_text("third")
    assert second["commit"] == first["commit"]
    assert len({second["changed"], trainer.code()["changed"]}) == 2


def test_an_interrupted_training_is_not_exported(tmp_path, monkeypatch):
    import keras_unet

    def train(*given, **named):
        return real(*given, **named)._replace(interrupted=True)

    real = keras_unet.train
    monkeypatch.setattr(keras_unet, "train", train)
    with pytest.raises(KeyboardInterrupt):
        trainer.run_fn(made.fn_args(tmp_path / "out", tmp_path / "runs"))
    assert not (tmp_path / "out" / "model").exists()
    assert list((tmp_path / "runs").glob("cells-*/run.json"))


def test_the_run_depends_on_settings_and_records_alone(tmp_path):
    given = Path(made.examples().uri)
    files = {"train_files": [f"{given}/Split-train/*"], "eval_files": [f"{given}/Split-eval/*"]}

    def name(train=made.TRAIN, steps=None, runs=tmp_path, **other):
        config = trainer.run_config(
            train, **{**files, **other}, transform_graph=None, steps=steps, name="x", runs=runs
        )
        assert config.output == runs
        return config.name

    first = name()
    assert first.startswith("x-") and name(runs=tmp_path / "moved") == first
    assert name(steps=3) != first
    assert name({**made.TRAIN, "seed": 1}) != first
    assert name(eval_files=files["train_files"]) != first
    with pytest.raises(ConfigError, match="2 patterns of train records"):
        name(train_files=["a", "b"])


def test_the_normalisation_that_transform_learnt_is_used(tmp_path, monkeypatch):
    import pipelines.checks.preprocessing

    fitted = Normalization(method="dataset", mean=(10.0,), std=(3.0,))
    monkeypatch.setattr(pipelines.checks.preprocessing, "fitted_normalization", lambda uri: fitted)
    given = made.fn_args(tmp_path, tmp_path / "runs", transform_graph_path="graph")
    with made.answers_here():
        trainer.run_fn(given)
    assert models.load(str(tmp_path / "model")).card.normalization == fitted


def test_old_runs_are_forgotten_and_settings_checked(tmp_path):
    for name, age in (("old", 40), ("young", 1), ("mine", 40)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text("{}")
        then = tmp_path.stat().st_mtime - age * 86400
        os.utime(tmp_path / name / "run.json", (then, then))
    trainer.forget(tmp_path, besides=tmp_path / "mine")
    assert {path.name for path in tmp_path.iterdir()} == {"young", "mine"}
    with pytest.raises(ConfigError, match="stepps"):
        trainer.trainer_config({"stepps": 3}, name="x", runs="r")
    with pytest.raises(ConfigError, match=r"data\.images: the pipeline's own records"):
        trainer.trainer_config({"data": {"images": "x"}}, name="x", runs="r")
    with pytest.raises(ConfigError, match="custom_config has"):
        given = made.fn_args(tmp_path / "a", tmp_path / "b")
        given.custom_config = {"train": {}}
        trainer.run_fn(given)
    found = {"values": {"loss.w0": 5.0, "learning_rate": 0.1}, "space": []}
    assert trainer.hyperparameters(found) == {"loss": {"w0": 5.0}, "learning_rate": 0.1}
    assert trainer.hyperparameters(None) == {}


def test_a_model_without_its_keras_form_is_named(tmp_path):
    from keras_unet.errors import DataError

    with pytest.raises(DataError, match=r"Format-Keras/best\.keras: no such file"):
        models.load(str(tmp_path))
