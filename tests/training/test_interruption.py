"""Runs that a signal, a full disk or a bad number ends: with a checkpoint, and how to go on."""

from __future__ import annotations

import errno
import io
import os
import signal
import threading

import numpy as np
import pytest
import tensorflow as tf
from rich.console import Console
from test_exact_resume import begin, configured, go_on, same

from keras_unet.data.synthetic import write_dataset
from keras_unet.errors import TrainingError
from keras_unet.models import load_model
from keras_unet.models.keras_file import save_model
from keras_unet.training import build, callbacks, checkpoint, run, train
from keras_unet.training.callbacks import Budget, Validation
from keras_unet.training.loop import StopRequest


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("cells"), train=3, val=1, size=(48, 48), seed=0)


@pytest.fixture(autouse=True)
def checkpoint_at_each_step(monkeypatch):
    monkeypatch.setattr(checkpoint, "SHARE", float("inf"))


@pytest.fixture(scope="module")
def alone(data, tmp_path_factory):
    """The folder of a run that nothing happened to."""
    return begin(configured(data, tmp_path_factory.mktemp("alone"), "name=run")).folder


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

        monkeypatch.setattr(run, "save_model", save)
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


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        tf.errors.ResourceExhaustedError(None, None, "events.out; No space left on device"),
    ],
)
def test_a_full_disk_ends_the_run_with_a_message(data, tmp_path, monkeypatch, alone, error):
    def full(*_):
        raise error

    monkeypatch.setattr(callbacks, "save_model", full)  # best.keras, after the first epoch
    with pytest.raises(TrainingError, match="No space left on device") as caught:
        begin(configured(data, tmp_path, "name=run"))
    assert f"--resume {tmp_path / 'run'}" in str(caught.value)
    monkeypatch.undo()
    same(go_on(tmp_path / "run")[0].folder, alone)


def test_a_loss_that_is_no_number_ends_the_run_and_names_the_images(data, tmp_path, monkeypatch):
    real = build.targets

    def poisoned(samples, *args, **kwargs):
        made = real(samples, *args, **kwargs)
        made[1].weight[:] = np.inf
        poisoned.names = [sample.name for sample in samples]
        return made

    monkeypatch.setattr(build, "targets", poisoned)
    with pytest.raises(TrainingError, match="the loss") as caught:
        begin(configured(data, tmp_path, "name=run", "seed=1"))
    text = str(caught.value)
    assert [name for name in poisoned.names if name in text] == [poisoned.names[1]]
    found = sorted((tmp_path / "run" / "checkpoints").glob("*.npz"))
    assert str(found[-1]) in text if found else "none" in text
    assert (tmp_path / "run" / "history.csv").is_file()
