"""Real processes killed with SIGKILL at twenty moments, against a run that nothing happened to."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from test_logs import events

from keras_unet.data.synthetic import write_dataset
from keras_unet.models import load_model


@pytest.mark.slow
def test_twenty_kills_change_no_bit(tmp_path):
    data = write_dataset(tmp_path / "cells", train=3, val=1, size=(48, 48), seed=0)
    driver = Path(__file__).with_name("run_to_be_killed.py")
    command = [sys.executable, str(driver), str(data), str(tmp_path), "20", "0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["killed"] == 20
    points = {"model half written", "checkpoint half written", "checkpoint renamed"}
    points |= {"row half written"}
    assert points <= set(told["points"])

    alone, killed = tmp_path / "alone", tmp_path / "killed"
    for name in ("best.keras", "last.keras"):
        weights = [load_model(folder / name).network.get_weights() for folder in (alone, killed)]
        assert all(a.tobytes() == b.tobytes() for a, b in zip(*weights, strict=True)), name
    assert (alone / "history.csv").read_bytes() == (killed / "history.csv").read_bytes()
    assert events(alone) == events(killed)
    assert len(events(killed)["validation"]) == 30 * 5  # epochs, scores
    totals = [json.loads((f / "evaluation.json").read_text())["total"] for f in (alone, killed)]
    assert totals[0] == totals[1]
    assert not [p for p in killed.rglob("*") if p.suffix == ".npz" or p.name.startswith(".writing")]
