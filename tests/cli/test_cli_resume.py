"""A training process that is told to stop, and the command that goes on with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest
from typer.testing import CliRunner

from keras_unet.cli.app import app
from keras_unet.data.synthetic import write_dataset
from keras_unet.training import build
from keras_unet.training import run as fit

COMMAND = [sys.executable, "-c", "from keras_unet.cli import main; main()", "train"]
SETTINGS = ["model.filters=2", "model.depth=1", "augment=flips", "tile=44", "name=first"]
SETTINGS += ["steps=1000", "steps_per_epoch=10"]


def run(*arguments, cwd):
    command = [*COMMAND, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)
    return done.returncode, " ".join((done.stdout + done.stderr).split())


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stopped_run_says_how_to_go_on(tmp_path, number, code):
    data = write_dataset(tmp_path / "cells", train=3, val=1, size=(48, 48), seed=0)
    given = [str(data / "train"), "--validation", str(data / "val"), "--instances"]
    given += [part for setting in SETTINGS for part in ("--set", setting)]
    process = subprocess.Popen(
        [*COMMAND, *given],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    history = tmp_path / "runs" / "first" / "history.csv"
    deadline = time.monotonic() + 300
    while not (history.is_file() and history.read_text().count("\n") > 1):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(number)
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == code, printed
    assert "to go on: keras-unet train --resume runs/first" in " ".join(printed.split())
    assert list((tmp_path / "runs" / "first" / "checkpoints").glob("*.npz"))

    if number == signal.SIGTERM:
        status, said = run("--resume", "runs/first", "--set", "seed=1", cwd=tmp_path)
        assert status == 1
        assert "seed: begun with 0, now 1" in said
        assert "Traceback" not in said
        status, said = run("--resume", "runs/first", cwd=tmp_path)
        assert status == 0, said
        assert "Going on at step" in said
        assert history.read_text().count("\n") == 1 + 100
        status, said = run("--resume", "runs/first", cwd=tmp_path)
        assert status == 0, said
        assert "this run is finished" in said


@pytest.mark.parametrize("during", ["reading", "scoring"])
def test_sigterm_outside_the_steps_ends_the_command_too(tmp_path, monkeypatch, during):
    """Its default would leave files half written, and do nothing to a container's first process."""
    data = write_dataset(tmp_path / "cells", train=2, val=1, size=(48, 48), seed=0)
    place, name = {"reading": (build, "load_samples"), "scoring": (fit, "evaluate_samples")}[during]

    def told(*_, **__):
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("not ended")

    monkeypatch.setattr(place, name, told)
    monkeypatch.chdir(tmp_path)
    settings = [part for one in [*SETTINGS, "steps=2"] for part in ("--set", one)]
    given = ["train", str(data / "train"), "--validation", str(data / "val"), "--instances"]
    result = CliRunner().invoke(app, [*given, *settings])
    assert result.exit_code == 143, result.output
    folder = tmp_path / "runs" / "first"
    said = "Stopped while scoring; to go on: keras-unet train --resume runs/first"
    assert folder.exists() == (said in result.output) == (during == "scoring")
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
