"""Runs that are cut off and go on, in this process, against the same runs left alone."""

from __future__ import annotations

import io
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from keras_unet.data.synthetic import write_dataset
from keras_unet.errors import ConfigError, DataError
from keras_unet.evaluation import read_evaluation
from keras_unet.models import load_model
from keras_unet.training import checkpoint, load_config, train
from keras_unet.training.checkpoint import Checkpoints

SMALL = ["model.filters=2", "model.depth=1", "steps=8", "steps_per_epoch=3", "batch_size=1"]
SMALL += ["augment=flips", "data.label_kind=instances", "tile=44", "model.dropout=0.3"]


class Killed(BaseException):
    """Stands for SIGKILL: what is not on the disk is lost."""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("cells"), train=3, val=1, size=(48, 48), seed=0)


@pytest.fixture(autouse=True)
def checkpoint_at_each_step(monkeypatch):
    monkeypatch.setattr(checkpoint, "SHARE", float("inf"))


def configured(data, output, *settings):
    where = {"images": data / "train", "validation": data / "val"}
    more = [f"output={output}", "checkpoint_minutes=1e-9", *settings]
    return load_config(None, [*SMALL, *more], data=where)


def begin(config):
    return train(config, Console(file=io.StringIO()))


def go_on(folder, **given):
    said = io.StringIO()
    return train(console=Console(file=said, width=500), resume=folder, **given), said.getvalue()


def killed_after(monkeypatch, config, writes):
    """Runs until that many checkpoints are written."""
    real = Checkpoints.write

    def write(self, *args, **kwargs):
        path = real(self, *args, **kwargs)
        write.left -= 1
        if write.left == 0:
            raise Killed
        return path

    write.left = writes
    monkeypatch.setattr(Checkpoints, "write", write)
    with pytest.raises(Killed):
        begin(config)
    monkeypatch.setattr(Checkpoints, "write", real)
    return config.output / config.name


def same(first, second):
    """Both runs ended alike: weights, scores and rows, bit for bit."""
    for name in ("last.keras", "best.keras"):
        ours, theirs = (load_model(f / name) for f in (first, second))
        pairs = zip(ours.network.get_weights(), theirs.network.get_weights(), strict=True)
        assert all(a.tobytes() == b.tobytes() for a, b in pairs), name
        assert ours.card.metrics == theirs.card.metrics
    rows = [(f / "history.csv").read_bytes() for f in (first, second)]
    assert rows[0] == rows[1]
    assert rows[0].count(b"\n") == 1 + 3


@pytest.fixture(scope="module")
def alone(data, tmp_path_factory):
    """The folder of a run that nothing happened to."""
    return begin(configured(data, tmp_path_factory.mktemp("alone"), "name=run")).folder


VARIANTS = {
    "accelerator": [
        *("precision=float32", "model.normalization=group"),
        *("augment_on=accelerator", "batch_size=2", "oversample=0.5"),
    ],
    "averaged": [
        *("precision=float16", "ema_decay=0.9", "accumulate=2", "patience=9"),
        *("model.deep_supervision=true", "model.depth=2", "tile=60", "optimizer=sgd"),
    ],
}


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_run_that_was_cut_off_ends_with_the_same_bits(data, tmp_path, monkeypatch, variant):
    settings = [*VARIANTS[variant], "name=run"]
    whole = begin(configured(data, tmp_path / "whole", *settings)).folder
    # after one epoch (3 + 1 checkpoints) and in the middle of the next
    folder = killed_after(monkeypatch, configured(data, tmp_path / "cut", *settings), 5)
    assert not (folder / "last.keras").exists()
    result, said = go_on(folder)
    assert "Going on at step 4" in said
    same(folder, whole)
    assert result.evaluation.total == train(resume=whole).evaluation.total
    assert not (folder / "checkpoints").exists()


def test_the_same_seed_gives_the_same_bits(data, tmp_path, alone):
    """With dropout and "auto" precision, on the CPU, without asking TensorFlow for determinism."""
    same(begin(configured(data, tmp_path, "name=run")).folder, alone)


def test_a_run_killed_before_its_first_checkpoint_begins_anew(data, tmp_path, monkeypatch, alone):
    config = configured(data, tmp_path, "name=run")

    def killed(*_, **__):
        raise Killed

    monkeypatch.setattr(Checkpoints, "write", killed)
    with pytest.raises(Killed):
        begin(config)
    monkeypatch.undo()
    (tmp_path / "run" / ".writing-best-1").mkdir()  # killed while it wrote a model
    result, said = go_on(tmp_path / "run")
    assert "Going on" not in said
    assert not list((tmp_path / "run").glob(".writing*"))
    same(result.folder, alone)


def test_a_torn_checkpoint_costs_only_the_steps_since(data, tmp_path, monkeypatch, alone):
    folder = killed_after(monkeypatch, configured(data, tmp_path, "name=run"), 5)
    newest = max((folder / "checkpoints").glob("*.npz"))
    newest.write_bytes(newest.read_bytes()[:-1])
    with pytest.warns(UserWarning, match=newest.name):
        _, said = go_on(folder)
    assert "Going on at step 3" in said
    same(folder, alone)


def test_a_run_goes_on_only_as_it_was_begun(data, tmp_path, monkeypatch, alone):
    copy = shutil.copytree(data, tmp_path / "copy")
    monkeypatch.chdir(copy)  # relative paths hold wherever the run is resumed
    config = configured(Path(), tmp_path, "name=run")
    folder = killed_after(monkeypatch, config, 2)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"learning_rate: begun with 0.001, now 0.5") as caught:
        go_on(
            folder, config=configured(Path(), tmp_path, "name=run", "learning_rate=.5", "steps=9")
        )
    assert "steps: begun with 8, now 9" in str(caught.value)
    assert "loss" not in str(caught.value)
    assert str(caught.value).endswith(f"init={folder} begins it with what this one learned")

    text = (folder / "config.toml").read_text()
    (folder / "config.toml").write_text(text.replace("seed = 0", "seed = 1"))
    with pytest.raises(ConfigError, match="seed: begun with 0, now 1"):
        go_on(folder)
    (folder / "config.toml").write_text(text)

    label = sorted((copy / "train" / "labels").iterdir())[1]
    kept = label.read_bytes()
    from PIL import Image

    changed = np.asarray(Image.open(label)).copy()
    changed[0, 0] = 0 if changed[0, 0] else changed.max()
    Image.fromarray(changed).save(label)
    with pytest.raises(DataError, match=f"training image {label.stem}: other pixels or labels"):
        go_on(folder)
    label.unlink()
    with pytest.raises(DataError, match=label.stem):
        go_on(folder)
    label.write_bytes(kept)

    same(go_on("run", config=config)[0].folder, alone)


def test_a_finished_run_is_only_read(alone, tmp_path):
    before = {p: p.stat().st_mtime_ns for p in alone.rglob("*")}
    again, said = go_on(alone)
    assert "finished" in said
    assert again.evaluation == read_evaluation(alone)
    assert {p: p.stat().st_mtime_ns for p in alone.rglob("*")} == before
    with pytest.raises(ConfigError, match=r"no run to resume here.*run\.json"):
        go_on(tmp_path)


def test_two_processes_cannot_train_in_one_folder(data, tmp_path, monkeypatch):
    from keras_unet.training.run_folder import locked_run

    folder = killed_after(monkeypatch, configured(data, tmp_path, "name=run"), 2)
    with (
        locked_run(folder),
        pytest.raises(ConfigError, match=f"process {os.getpid()} is training in this folder"),
    ):
        go_on(folder)


@pytest.mark.slow
def test_patience_ends_a_run_and_is_remembered(data, tmp_path, monkeypatch):
    settings = ["steps=60", "patience=2", "learning_rate=1e-30", "ema_decay=0", "name=run"]
    whole = begin(configured(data, tmp_path / "whole", *settings)).folder
    rows = (whole / "history.csv").read_bytes()
    assert rows.count(b"\n") == 1 + 3  # the first epoch, and two that are no better
    folder = killed_after(monkeypatch, configured(data, tmp_path / "cut", *settings), 7)
    go_on(folder)
    assert (folder / "history.csv").read_bytes() == rows
