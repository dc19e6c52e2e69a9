"""Trains in child processes that are killed with SIGKILL; run by test_kill.py.

Usage: run_to_be_killed.py DATA OUTPUT KILLS SEED. Writes OUTPUT/alone and OUTPUT/killed, two runs
of one configuration, and prints what was killed where, as JSON. Children are forked after the
imports, before TensorFlow has started anything, which saves much of a life's time.
"""

from __future__ import annotations

import io
import json
import os
import random
import select
import signal
import sys
import time
import zipfile
from pathlib import Path

from rich.console import Console

from keras_unet import disk, run_layout
from keras_unet.models import keras_file
from keras_unet.training import callbacks, checkpoint, load_config, loop, run

SETTINGS = ["model.filters=2", "model.depth=1", "batch_size=1", "augment=flips", "tile=44"]
SETTINGS += ["data.label_kind=instances", "model.dropout=0.3", "steps=600", "steps_per_epoch=20"]
SETTINGS += ["checkpoint_minutes=0.001"]
BEFORE, HALF, RENAMED, ROW = POINTS = (
    "before the first step",
    "checkpoint half written",
    "checkpoint renamed",
    "row half written",
)
MODEL = "model half written"  # once, in the first epoch: later ones may have no better model


def child(config, folder: Path, pipe: int, point: str | None) -> None:
    """Trains or goes on; tells the pipe when it begins and, at `point`, waits to be killed."""
    checkpoint.SHARE = 0.3  # tiny steps: otherwise there would be few checkpoints
    counts = {"calls": 0, "begun": 0}

    def wait_at(name: str) -> None:
        counts["calls"] += name == point
        if counts["calls"] == 1 + (point != MODEL):  # not the first: there is something to lose
            os.write(pipe, b"p")
            time.sleep(60)

    real_write = checkpoint._write
    real_loop, real_line = loop.run_loop, callbacks.History._line
    real_member = zipfile.ZipFile.writestr

    def write(path, arrays, state):
        if point == HALF:
            path.write_bytes(b"PK\x03\x04 the beginning of a file")
            wait_at(HALF)
        return real_write(path, arrays, state)

    def rename(beside, path):
        beside.replace(path)
        if path.parent.name == run_layout.CHECKPOINTS:
            wait_at(RENAMED)
        disk.sync_folder(path.parent)

    def line(self, number):
        text = real_line(self, number)
        if counts["begun"] and point == ROW:
            if counts["calls"] == 1:
                with self.path.open("a") as file:
                    file.write(text[: len(text) // 2])
            wait_at(ROW)
        return text

    def member(archive, name, *args, **kwargs):
        if name == keras_file.CARD:
            wait_at(MODEL)
        return real_member(archive, name, *args, **kwargs)

    def run_loop(*args, between_steps, **kwargs):
        def first_rest():
            if not counts["begun"]:
                os.write(pipe, b"s")
            counts["begun"] += 1
            between_steps()

        if point == BEFORE:
            os.write(pipe, b"s")
        real_loop(*args, between_steps=first_rest, **kwargs)

    checkpoint._write, disk.rename = write, rename
    callbacks.History._line, loop.run_loop = line, run_loop
    zipfile.ZipFile.writestr = member
    console = Console(file=io.StringIO())
    if folder.exists():
        run.train(console=console, resume=folder)
    else:
        run.train(config, console)


def life(config, folder: Path, point: str | None, seconds: float) -> tuple[int, bool]:
    """One child: (its exit status, or -9; whether it was killed at its point)."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            child(config, folder, write, point)
            status = 0
        except BaseException as error:
            print(f"child: {error!r}", file=sys.stderr, flush=True)
        finally:
            os._exit(status)
    os.close(write)
    reached = False
    limit = time.monotonic() + (300 if seconds >= 0 else 600)
    while time.monotonic() < limit and select.select([read], [], [], limit - time.monotonic())[0]:
        byte = os.read(read, 1)
        if byte == b"s" and seconds >= 0:  # the steps began; a point may come earlier
            limit = time.monotonic() + (seconds if point in (None, BEFORE) else 60)
        elif byte == b"p":
            reached = True
            break
        elif not byte:
            break
    os.close(read)
    if byte:
        os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), reached


def steps_took(folder: Path) -> float:
    """Seconds from the start of the steps to the last row of the run's history."""
    first, last = (folder / name for name in ("config.toml", "history.csv"))
    return last.stat().st_mtime - first.stat().st_mtime


def main() -> None:
    data, output, kills, seed = Path(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:])
    where = {"images": data / "train", "validation": data / "val"}
    configs = {
        name: load_config(None, [*SETTINGS, f"output={output}", f"name={name}"], data=where)
        for name in ("alone", "killed")
    }
    assert life(configs["alone"], output / "alone", None, -1)[0] == 0
    length = steps_took(output / "alone")
    rng = random.Random(seed)
    killed, points = 0, []
    while killed < kills:
        point = POINTS[killed // 2 % 4] if killed % 2 else None  # else at a random moment
        point = point if killed else MODEL
        status, reached = life(
            configs["killed"], output / "killed", point, rng.uniform(0, 0.06 * length)
        )
        assert status == -signal.SIGKILL, f"ended after {killed} kills with {status}"
        killed += 1
        points += [point] if reached else []
    numbers = sorted(p.name for p in (output / "killed" / "checkpoints").glob("*.npz"))
    assert life(configs["killed"], output / "killed", None, -1)[0] == 0
    print(json.dumps({"killed": killed, "points": points, "left": numbers}))


if __name__ == "__main__":
    main()
