"""Killed at any moment, a publisher leaves nothing that a server would load."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import make_trained

from keras_unet.models import in_float32
from keras_unet.serving import export, versions

HERE = Path(__file__).parent


def start(script, folder):
    path = os.pathsep.join([str(HERE.parent), str(HERE.parents[1]), *sys.path])
    return subprocess.Popen(
        [sys.executable, str(HERE / script), str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": "-1"},
    )


@pytest.mark.slow
def test_a_watcher_never_sees_a_broken_version(tmp_path):
    folder = tmp_path / "unet"
    folder.mkdir()
    watcher = start("version_watcher.py", folder)
    publisher = start("killed_publisher.py", folder)
    try:
        assert watcher.stdout.readline() == "watching\n"

        def publish(delay):
            publisher.stdin.write(f"{delay}\n")
            publisher.stdin.flush()
            outcome, seconds = publisher.stdout.readline().split()
            return outcome, float(seconds)

        whole = min(publish("none")[1] for _ in range(2))
        rng = random.Random(0)
        killed = left = tried = 0
        while killed < 30:
            tried += 1
            assert tried < 90, f"killed {killed} of {tried}"
            outcome, seconds = publish(rng.uniform(0.1, 1.05) * whole)
            assert outcome in ("0", "killed")
            killed += outcome == "killed"
            left += any(folder.glob(".unfinished-*")) or any(folder.glob(".removed-*"))
            if outcome == "0":
                whole = min(whole, seconds)  # how busy the machine is changes
            elif tried % 10 == 0:
                assert publish("none")[0] == "0"  # something new to load
        assert publish("none")[0] == "0"
        seen, _ = watcher.communicate(timeout=60)
    finally:
        for process in (watcher, publisher):
            process.kill()
            process.wait()
    lines = seen.splitlines()
    assert [line for line in lines if line.startswith("broken")] == []
    assert len(lines) >= 4
    assert left >= 8  # many were killed in the middle of it
    numbers = versions(folder)
    assert len(numbers) == 2
    assert numbers[1] == numbers[0] + 1
    assert {p.name for p in folder.iterdir()} == {*map(str, numbers), ".lock"}
    trained = make_trained()  # and the next one publishes as ever
    trained = trained._replace(network=in_float32(trained.network))
    assert export(trained, folder).name == str(numbers[1] + 1)
