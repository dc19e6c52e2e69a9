"""The whole pipeline on real files: what runs again and what does not, and where it stops."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("tfx")

from keras_unet.data import make_cells
from pipelines.config import PipelineConfig, load_pipeline_config
from pipelines.executions import Step, open_store, runs, steps
from pipelines.local import run_local
from pipelines.summary import summary
from pipelines.trouble import PipelineError

pytestmark = [pytest.mark.tfx, pytest.mark.slow]

DATA_STEPS = {
    "ImageExampleGen",
    "ImportSchemaGen",
    "StatisticsGen",
    "ExampleValidator",
    "SkewValidator",
    "DriftValidator",
    "DataReport",
    "AnomalyGate",
    "Transform",
}
MODEL_STEPS = {"Trainer", "Evaluator", "InfraValidator", "Pusher"}
ALL = DATA_STEPS | MODEL_STEPS
SETTINGS = [
    "name=tiny",
    "data.label_kind=instances",
    "data.eval_share=0.3",
    "train.steps=4",
    "train.steps_per_epoch=2",
    "train.tile=92",
    "train.augment=flips",
    "train.precision=float32",
    "train.model.filters=2",
    "train.model.depth=2",
    'evaluation.thresholds=[{score="mean_dice",at_least=0.0}]',
]


class World(NamedTuple):
    """A folder of images, and where its pipeline keeps everything."""

    folder: Path

    @property
    def images(self) -> Path:
        return self.folder / "data" / "images"

    @property
    def root(self) -> Path:
        return self.folder / "root"

    def settings(self, *more: str) -> list[str]:
        own = [f"root={self.root}", f"push.folder={self.folder / 'saved_models'}"]
        return [*SETTINGS, *own, f"data.images={self.folder / 'data'}", *more]

    def config(self, *more: str) -> PipelineConfig:
        return load_pipeline_config(None, self.settings(*more))

    def run(self, *more: str) -> dict[str, Step]:
        return {s.component: s for s in run_local(self.config(*more), print)}

    def add(self, name: str, seed: int) -> None:
        image, labels = make_cells(96, seed=seed, diameter=18)
        for kind, values in (("images", image), ("labels", labels.astype(np.uint16))):
            path = self.folder / "data" / kind / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(values).save(path)

    def versions(self) -> list[str]:
        """What lies in the model's folder beside the publisher's lock, unfinished ones too."""
        folder = self.folder / "saved_models" / "tiny"
        found = (path.name for path in folder.glob("*")) if folder.is_dir() else ()
        return sorted(name for name in found if name != ".lock")

    def artifacts(self) -> Counter[str]:
        store = open_store(self.root / "metadata.sqlite")
        names = {t.id: t.name for t in store.get_artifact_types()}
        return Counter(names[a.type_id] for a in store.get_artifacts())

    def model(self, found: dict[str, Step]) -> str:
        return found["Trainer"].outputs["model"][0].uri


def executed(found: dict[str, Step]) -> set[str]:
    return {name for name, step in found.items() if step.state == "COMPLETE"}


def cached(found: dict[str, Step]) -> set[str]:
    return {name for name, step in found.items() if step.state == "CACHED"}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    world = World(tmp_path_factory.mktemp("world"))
    for n in range(10):
        world.add(f"cells_{n}", seed=n)
    return world


@pytest.fixture(scope="module")
def first(world):
    """The first run, and how many artifacts of each type it made."""
    return world.run(), world.artifacts()


def test_first_run_publishes(world, first):
    found, artifacts = first
    assert executed(found) == ALL and not cached(found)
    assert world.versions() == ["1"]
    assert artifacts["Model"] == artifacts["PushedModel"] == artifacts["TransformGraph"] == 1
    assert artifacts["ModelBlessing"] == artifacts["InfraBlessing"] == 1
    told = "\n".join(summary(world.config(), list(found.values())))
    for page in ("statistics.html", "anomalies.html", "verdict.html", "report.html"):
        assert page in told
    assert str(world.folder / "saved_models" / "tiny" / "1") in told
    assert list(Path(found["Trainer"].outputs["model_run"][0].uri).rglob("events.out.tfevents*"))


def test_second_run_executes_nothing(world, first):
    found = world.run()
    assert cached(found) == ALL and not executed(found)
    assert world.artifacts() == first[1]
    assert world.versions() == ["1"]


def test_changed_training_killed_in_the_trainer_then_finished(world, first, capfd):
    """Trainer and what follows run again; kill -9 in the Trainer; the rerun goes on."""
    more = ("train.seed=1", "train.steps=80", "train.steps_per_epoch=4")
    command = [sys.executable, "-W", "ignore", "-m", "pipelines.run"]
    command += [part for setting in world.settings(*more) for part in ("--set", setting)]
    with subprocess.Popen(command, start_new_session=True, env=os.environ) as process:
        try:
            kept = _wait_for(world.root / "trainer", "*/checkpoints/*", process)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    store = open_store(world.root / "metadata.sqlite")
    left = {s.component: s.state for s in steps(store, runs(store, "tiny")[-1])}
    assert left["Trainer"] == "RUNNING" and "Evaluator" not in left
    assert world.versions() == ["1"]

    capfd.readouterr()
    found = world.run(*more)
    told = capfd.readouterr().out
    assert "An earlier run was killed in Trainer" in told and "Going on at step" in told
    assert executed(found) == MODEL_STEPS and cached(found) == DATA_STEPS
    assert world.versions() == ["1", "2"]
    states = Counter(s.state for run in runs(store, "tiny") for s in steps(store, run))
    assert states["RUNNING"] == 0 and states["CANCELED"] == 1
    assert not kept.exists()  # the run folder was gone on with, and put away
    log = Path(found["Trainer"].outputs["model_run"][0].uri, "history.csv")
    assert log.is_file()
    verdict = Path(found["Evaluator"].outputs["evaluation"][0].uri)
    assert (verdict / "baseline").is_dir()  # compared with version 1's model


def test_not_blessed_is_not_pushed(world, first):
    found = world.run('evaluation.thresholds=[{score="mean_dice",at_least=1.01}]')
    assert executed(found) == {"Evaluator", "Pusher"}
    assert "1" in world.versions() and "3" not in world.versions()
    told = "\n".join(summary(world.config(), list(found.values())))
    assert "Not published" in told and "mean_dice" in told


def test_new_image_beside_a_bad_one(world, first):
    """Everything that saw the images runs again; the bad one is left out, named and counted."""
    before = len(world.versions())
    world.add("cells_new", seed=99)
    torn = world.images / "cells_0.png"
    whole = torn.read_bytes()
    try:
        torn.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(PipelineError, match="ImageExampleGen: ") as raised:
            world.run()
        assert "cells_0.png" in str(raised.value) and "Traceback" not in str(raised.value)
        assert len(world.versions()) == before
        found = world.run("data.max_bad_share=0.2")
    finally:
        torn.write_bytes(whole)
    assert executed(found) == ALL - {"ImportSchemaGen"}
    letters = Path(found["ImageExampleGen"].outputs["dead_letters"][0].uri, "dead_letters.jsonl")
    (bad,) = [json.loads(line) for line in letters.read_text(encoding="utf-8").splitlines()]
    assert "cells_0.png" in bad["file"] and bad["found"]
    assert len(world.versions()) == before + 1


def test_broken_batch_stops_before_the_training(world, first):
    before, count = world.versions(), world.artifacts()["Model"]
    kept = world.folder / "kept"
    shutil.copytree(world.folder / "data", kept)
    try:
        for path in sorted(world.images.glob("*.png"))[:5]:
            grey = np.asarray(Image.open(path))
            Image.fromarray(np.stack([grey, grey, grey], -1)).save(path)
        with pytest.raises(PipelineError, match="AnomalyGate: ") as raised:
            world.run()
    finally:
        shutil.rmtree(world.folder / "data")
        kept.rename(world.folder / "data")
    assert "image/channels" in str(raised.value)
    assert world.versions() == before and world.artifacts()["Model"] == count


def test_two_runs_of_one_root(world, first):
    from keras_unet.errors import ConfigError
    from keras_unet.training.run_folder import RunLock

    with RunLock(world.root), pytest.raises(ConfigError, match="running a pipeline"):
        world.run()


def _wait_for(folder: Path, pattern: str, process: subprocess.Popen[bytes]) -> Path:
    """The run folder in which a checkpoint is."""
    end = time.monotonic() + 600
    while time.monotonic() < end:
        found = [path for path in folder.glob(pattern) if not path.name.startswith(".")]
        if found:
            return found[0].parents[1]
        assert process.poll() is None, f"the pipeline ended by itself: {process.returncode}"
        time.sleep(0.05)
    raise AssertionError("no checkpoint in ten minutes")
