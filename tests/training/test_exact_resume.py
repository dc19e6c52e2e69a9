"""Runs that are cut off and go on, in this process, against the same runs left alone."""

from __future__ import annotations

import errno
import io
import os
import shutil
import signal
import threading
from pathlib import Path

import keras
import numpy as np
import pytest
from rich.console import Console

from keras_unet.data.synthetic import write_dataset
from keras_unet.errors import ConfigError, DataError, TrainingError
from keras_unet.evaluation import read_evaluation
from keras_unet.models import load_model
from keras_unet.models.bundle import save_model
from keras_unet.training import callbacks, checkpoint, load_config, prepare, steps, train
from keras_unet.training.callbacks import Budget, Validation
from keras_unet.training.checkpoint import Checkpoints
from keras_unet.training.interruption import StopRequest
from keras_unet.training.loop import Position, run_loop

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


@pytest.mark.parametrize(
    ("number", "during"),
    [
        ("SIGTERM", "start"),
        ("SIGTERM", "step"),
        ("SIGINT", "validation"),
        ("SIGTERM", "end"),
        ("SIGTERM", "both"),
    ],
)
def test_a_signal_ends_the_run_with_a_checkpoint(
    data, tmp_path, monkeypatch, number, during, alone
):
    """Also in the middle of a validation, which is then done again."""
    assert threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    if during == "start":
        real = StopRequest.__enter__

        def enter(self):  # the signal comes before the first step
            entered = real(self)
            os.kill(os.getpid(), signal.SIGTERM)
            return entered

        monkeypatch.setattr(StopRequest, "__enter__", enter)
    elif during == "step":
        begins = Budget.on_train_batch_begin

        def step(self, batch, logs=None):
            os.kill(os.getpid(), signal.SIGTERM)
            begins(self, batch, logs)

        monkeypatch.setattr(Budget, "on_train_batch_begin", step)
    elif during in ("end", "both"):

        def save(model, path):
            if during == "both":
                os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGTERM)
            return save_model(model, path)

        monkeypatch.setattr(steps, "save_model", save)
    else:
        inner = Validation.on_epoch_end

        def validate(self, epoch, logs=None):
            if epoch == 1:
                os.kill(os.getpid(), signal.SIGINT)
            inner(self, epoch, logs)

        monkeypatch.setattr(Validation, "on_epoch_end", validate)
    config = configured(data, tmp_path, "name=run")
    said = io.StringIO()
    if number == "SIGTERM":
        with pytest.raises(SystemExit) as ended:
            train(config, Console(file=said, width=500))
        assert ended.value.code == 143
    else:
        result = train(config, Console(file=said, width=500))
        assert result.interrupted
        assert (tmp_path / "run" / "evaluation.json").is_file()
    monkeypatch.undo()
    done = {"start": 0, "step": 1, "validation": 6, "end": 8, "both": 8}[during]
    assert f"Stopped at step {done} ({number})" in said.getvalue()
    assert f"keras-unet train --resume {tmp_path / 'run'}" in said.getvalue()
    assert load_model(tmp_path / "run" / "last.keras").card.metrics == {"step": done}
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    _, said = go_on(tmp_path / "run")
    assert f"Going on at step {done}" in said
    same(tmp_path / "run", alone)


def test_a_full_disk_ends_the_run_with_a_message(data, tmp_path, monkeypatch, alone):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(callbacks, "save_model", full)  # best.keras, after the first epoch
    with pytest.raises(TrainingError, match="No space left on device") as caught:
        begin(configured(data, tmp_path, "name=run"))
    assert f"--resume {tmp_path / 'run'}" in str(caught.value)
    monkeypatch.undo()
    same(go_on(tmp_path / "run")[0].folder, alone)


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
    from keras_unet.training.run_folder import RunLock

    folder = killed_after(monkeypatch, configured(data, tmp_path, "name=run"), 2)
    with (
        RunLock(folder),
        pytest.raises(ConfigError, match=f"process {os.getpid()} is training in this folder"),
    ):
        go_on(folder)


def test_a_loss_that_is_no_number_ends_the_run_and_names_the_images(data, tmp_path, monkeypatch):
    real = prepare.targets

    def poisoned(samples, *args, **kwargs):
        made = real(samples, *args, **kwargs)
        made[1].weight[:] = np.inf
        poisoned.names = [sample.name for sample in samples]
        return made

    monkeypatch.setattr(prepare, "targets", poisoned)
    with pytest.raises(TrainingError, match="the loss") as caught:
        begin(configured(data, tmp_path, "name=run", "seed=1"))
    text = str(caught.value)
    assert [name for name in poisoned.names if name in text] == [poisoned.names[1]]
    found = sorted((tmp_path / "run" / "checkpoints").glob("*.npz"))
    assert str(found[-1]) in text if found else "none" in text
    assert (tmp_path / "run" / "history.csv").is_file()


@pytest.mark.slow
def test_patience_ends_a_run_and_is_remembered(data, tmp_path, monkeypatch):
    settings = ["steps=60", "patience=2", "learning_rate=1e-30", "ema_decay=0", "name=run"]
    whole = begin(configured(data, tmp_path / "whole", *settings)).folder
    rows = (whole / "history.csv").read_bytes()
    assert rows.count(b"\n") == 1 + 3  # the first epoch, and two that are no better
    folder = killed_after(monkeypatch, configured(data, tmp_path / "cut", *settings), 7)
    go_on(folder)
    assert (folder / "history.csv").read_bytes() == rows


def test_the_loop_is_that_of_fit():
    """Same batches, same weights and the same mean of the loss as Keras's own loop."""
    import tensorflow as tf

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(6, 4, 3)).astype("f"), rng.normal(size=(6, 4, 2)).astype("f")
    batches = tf.data.Dataset.from_tensor_slices((x, y)).repeat()
    found = []
    for ours in (True, False):
        keras.utils.set_random_seed(0)
        inputs = keras.Input((3,))
        model = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Dropout(0.5)(inputs)))
        model.compile("adam", "mse")
        seen = []
        log = keras.callbacks.LambdaCallback(
            on_epoch_end=lambda epoch, logs, seen=seen: seen.append(float(logs["loss"]))
        )
        if ours:

            class Two(keras.callbacks.Callback):
                def on_epoch_end(self, epoch, logs=None):
                    self.model.stop_training = epoch == 1

            run_loop(
                model,
                iter(batches),
                [log, Two()],
                steps_per_epoch=3,
                position=Position(),
                at_rest=lambda: None,
            )
        else:
            model.fit(
                batches, steps_per_epoch=3, epochs=2, shuffle=False, verbose=0, callbacks=[log]
            )
        found.append((seen, [w.tobytes() for w in model.get_weights()]))
    assert found[0] == found[1]
    assert len(found[0][0]) == 2
