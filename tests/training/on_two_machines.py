"""Runs of two processes that meet on this machine's loopback; run by test_workers.py.

Usage: on_two_machines.py DATA OUTPUT. Prints, for each run and process, as JSON: its exit status,
what it said, the seconds from the other's death to its end, and a hash of its weights after the
last step. Processes are forked after the imports, before TensorFlow has started anything.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import signal
import socket
import sys
import time
from pathlib import Path

from rich.console import Console

from keras_unet.errors import KerasUnetError
from keras_unet.training import checkpoint, cross_validate, load_config, loop, train

SETTINGS = ["model.filters=2", "model.depth=1", "batch_size=4", "augment=flips", "tile=44"]
SETTINGS += ["data.label_kind=instances", "steps_per_epoch=4", "precision=float32"]
SETTINGS += ["optimizer=sgd", "momentum=0.9", "learning_rate=0.05"]  # Adam magnifies rounding
SETTINGS += ["loss.dice=0.5"]  # no mean over tiles: the machines exchange its sums


def process(data: Path, output: Path, told: Path, settings: list[str], event) -> int:
    """One machine; `event(step)` is called after each step, and with -1 when they are over."""
    found = {"said": "", "weights": ""}
    console = Console(file=io.StringIO(), width=2000)
    real = loop.run_loop

    def run_loop(model, *args, between_steps, position, **kwargs):
        def rest():
            event(position.epoch * kwargs["steps_per_epoch"] + position.step)
            between_steps()

        try:
            real(model, *args, between_steps=rest, position=position, **kwargs)
        finally:
            hashed = hashlib.sha256(b"".join(w.tobytes() for w in model.get_weights()))
            found["weights"] = hashed.hexdigest()
        event(-1)

    loop.run_loop = run_loop
    checkpoint.SHARE = float("inf")
    os.chdir(data)  # each machine has its own disk
    where = {"images": Path("train"), "validation": Path("val")}
    folded = "name=folds" in settings
    where = {"images": Path("train")} if folded else where
    config = load_config(None, [*SETTINGS, f"output={output}", *settings], data=where)
    folder, status = output / str(config.name), 0
    try:
        if folded:
            report = cross_validate(config, 3, console).report
            told.write_text(json.dumps({"report": report}))
            return 0
        # as a script that is started again by a cluster would have it
        begun = {"resume": folder} if folder.exists() else {"config": config}
        result = train(console=console, **begun)
        found["dice"] = result.evaluation.total["mean_dice"]
        found["folder"] = str(result.folder)
    except KerasUnetError as error:
        found["error"], status = str(error), 1
    except SystemExit as ended:
        status = int(ended.code)
    found["said"] = console.file.getvalue()
    told.write_text(json.dumps(found))
    return status


def together(
    output: Path, datas: list[Path], settings: list[str], events, again: bool = False
) -> list[dict]:
    """Processes of one cluster, one for each data folder; what became of each.

    With `again`, one that fails is started again at once, as a cluster does.
    """
    free = [socket.create_server(("127.0.0.1", 0)) for _ in datas]
    hosts = [f"127.0.0.1:{each.getsockname()[1]}" for each in free]
    for each in free:
        each.close()

    def start(rank: int, event) -> int:
        pid = os.fork()
        if pid:
            return pid
        status = 70
        try:
            if len(datas) > 1:
                task = {"type": "worker", "index": rank}
                os.environ["TF_CONFIG"] = json.dumps({"cluster": {"worker": hosts}, "task": task})
            told = output / f"told{rank}.json"
            status = process(datas[rank], output, told, settings, event)
        except BaseException as error:
            print(f"process {rank}: {error!r}", file=sys.stderr, flush=True)
        finally:
            os._exit(status)

    running = {start(i, events.get(i, lambda step: None)): i for i in range(len(datas))}
    found, first, restarts = [{} for _ in datas], 0.0, 0
    while running:
        pid, status = os.wait()
        rank, now = running.pop(pid), time.monotonic()
        first = first or now
        told = output / f"told{rank}.json"
        known = json.loads(told.read_text()) if told.exists() else {}
        told.unlink(missing_ok=True)
        status = os.waitstatus_to_exitcode(status)
        if status and again and restarts < 8:
            restarts += 1
            running[start(rank, lambda step: None)] = rank
        found[rank] = {**known, "status": status, "after": now - first, "restarts": restarts}
    return found


def at(step: int, number: int):
    """Sends the process itself a signal after a step."""

    def event(now: int) -> None:
        if now == step:
            os.kill(os.getpid(), number)

    return event


def main() -> None:
    data, output = Path(sys.argv[1]), Path(sys.argv[2])
    two, found = [data, data], {}

    def run(key: str, datas: list[Path], *settings: str, events=None, again=False) -> None:
        found[key] = together(output, datas, list(settings), events or {}, again)

    run("one", [data], "name=one", "steps=10")
    run("two", two, "name=two", "steps=10")
    killed = {1: at(6, signal.SIGKILL)}
    run("killed", two, "name=killed", "steps=10", "checkpoint_minutes=1e-9", events=killed)
    run("killed again", two, "name=killed", "steps=10", "checkpoint_minutes=1e-9")
    settings = ("name=restarted", "steps=10", "checkpoint_minutes=1e-9")
    run("restarted", two, *settings, events=killed, again=True)
    run("ended", two, "name=ended", "steps=10", events={1: at(5, signal.SIGTERM)})
    run("ended again", two, "name=ended", "steps=10")
    run("headless", two, "name=headless", "steps=10", events={0: at(6, signal.SIGKILL)})
    patient = ("name=patient", "steps=80", "patience=1", "learning_rate=1e-30")
    run("patient", two, *patient, events={0: at(-1, signal.SIGKILL)})
    run("patient again", two, *patient)
    run("folds", two, "name=folds", "steps=2")
    run("timed", two, "name=timed", "minutes=0.15")
    other = shutil.copytree(data, output / "other")
    labels = sorted((other / "train" / "labels").iterdir())
    labels[0].write_bytes(labels[1].read_bytes())
    run("unlike", [data, other], "name=unlike", "steps=10")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
