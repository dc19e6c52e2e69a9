"""Two processes that train together over the loopback, and what happens when one is gone."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from test_mirrored import alike, rows

from keras_unet.data.synthetic import write_dataset

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    return tmp_path_factory.mktemp("machines")


@pytest.fixture(scope="module")
def told(output):
    """What the processes of each run did, by the driver's names of the runs."""
    data = write_dataset(output / "cells", train=3, val=1, size=(48, 48), seed=0)
    driver = Path(__file__).with_name("on_two_machines.py")
    command = [sys.executable, str(driver), str(data), str(output)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1800)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_two_machines_take_the_steps_of_one(told, output):
    assert [each["status"] for each in (*told["one"], *told["two"])] == [0, 0, 0]
    assert "2 devices on 2 machine(s)" in told["two"][0]["said"]
    alike(output / "two", output / "one")
    first, second = told["two"]
    assert first["weights"] == second["weights"]
    assert first["dice"] == second["dice"]
    assert Path(second["folder"]) == output / "two"


def test_only_the_first_writes_and_speaks(told, output):
    assert told["two"][1]["said"] == ""
    assert len(rows(output / "two")) == 3
    boards = list((output / "two" / "tensorboard").glob("*/*"))
    assert len(boards) == 2


def test_where_one_is_killed_the_other_ends_and_says_so(told, output):
    first, second = told["killed"]
    assert second["status"] == -signal.SIGKILL
    assert first["status"] == 1
    assert "another machine of this run is gone" in first["error"]
    assert "--resume" in first["error"]
    assert first["after"] < 60
    first, second = told["headless"]
    assert first["status"] == -signal.SIGKILL
    assert second["status"] == 1
    assert "another machine of this run is gone" in second["error"]
    assert second["after"] < 60


def test_both_started_again_end_as_if_nothing_had_happened(told, output):
    first, second = told["killed again"]
    assert "Going on at step 6" in first["said"]
    assert {first["weights"], second["weights"]} == {told["two"][0]["weights"]}
    assert (output / "killed" / "history.csv").read_bytes() == (
        output / "two" / "history.csv"
    ).read_bytes()
    assert not (output / "killed" / "checkpoints").exists()


def test_a_run_that_patience_had_ended_is_only_scored(told, output):
    assert told["patient"][0]["status"] == -signal.SIGKILL
    first, second = told["patient again"]
    assert [first["status"], second["status"]] == [0, 0]
    assert "Going on at step 8" in first["said"]
    assert first["weights"] == second["weights"]
    assert len(rows(output / "patient")) == 2


def test_one_that_is_started_again_at_once_waits_for_the_other(told):
    first, second = told["restarted"]
    assert [first["status"], second["status"]] == [0, 0]
    assert 2 <= second["restarts"] <= 4
    assert {first["weights"], second["weights"]} == {told["two"][0]["weights"]}


def test_folds(told):
    first, second = told["folds"]
    assert [first["status"], second["status"]] == [0, 0]
    assert first["report"] == second["report"]
    assert first["report"]["folds"] == 3


def test_a_signal_to_one_ends_both_with_a_checkpoint(told):
    assert [each["status"] for each in told["ended"]] == [143, 143]
    assert "(SIGTERM)" in told["ended"][0]["said"]
    first, second = told["ended again"]
    assert "Going on at step" in first["said"]
    assert {first["weights"], second["weights"]} == {told["two"][0]["weights"]}


def test_the_first_ones_clock_ends_both(told):
    first, second = told["timed"]
    assert [first["status"], second["status"]] == [0, 0]
    assert first["weights"] == second["weights"] != ""


def test_another_data_set_on_one_machine_is_seen(told):
    first, second = told["unlike"]
    assert second["status"] == 1
    assert "are not those of machine 0" in second["error"]
    assert first["status"] == 1
    assert "another machine of this run is gone" in first["error"]
