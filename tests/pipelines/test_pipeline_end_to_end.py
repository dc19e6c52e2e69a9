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
from keras_unet.inference import predict_files
from keras_unet.serving import rollback
from keras_unet.serving.card import Origin, read_origin, read_served_card
from keras_unet.serving.lineage import lineage
from keras_unet.training.config import load_config
from pipelines import models
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

    def add(self, name: str, seed: int, folder: Path | None = None) -> None:
        image, labels = make_cells(96, seed=seed, diameter=18)
        for kind, values in (("images", image), ("labels", labels.astype(np.uint16))):
            path = (folder or self.folder / "data") / kind / f"{name}.png"
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

    def origin(self, version: str) -> Origin:
        """Of which model a version is."""
        found = read_origin(self.folder / "saved_models" / "tiny" / version)
        assert found is not None
        return found

    def told(self, found: dict[str, Step], *more: str) -> str:
        """What the run says at its end."""
        return "\n".join(summary(self.config(*more), list(found.values())))

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
    told = world.told(found)
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
    """The first settings again, whose model comes from the cache: it is compared with the newer."""
    before = world.versions()
    found = world.run('evaluation.thresholds=[{score="mean_dice",at_least=1.0}]')
    assert executed(found) == {"Evaluator", "Pusher"}
    assert world.versions() == before
    assert "Not published" in world.told(found) and "mean_dice" in world.told(found)
    blessing = found["Evaluator"].outputs["blessing"][0].custom_properties
    assert blessing["current_model_id"].int_value == world.origin(before[0]).model
    others = [world.origin(number).model for number in before[1:]]
    assert blessing["baseline_model_id"].int_value == max(others, default=0)


def test_not_infra_blessed_is_not_pushed(world, first):
    """The Keras model is good enough; but what would be served refuses images of their size."""
    before = world.versions()
    found = world.run("export.max_pixels=6000")
    assert executed(found) == MODEL_STEPS
    assert found["Evaluator"].outputs["blessing"][0].custom_properties["blessed"].int_value == 1
    infra = Path(found["InfraValidator"].outputs["blessing"][0].uri)
    assert (infra / "INFRA_NOT_BLESSED").is_file() and (infra / "server.log").stat().st_size
    assert not json.loads((infra / "report.json").read_text())["blessed"]
    assert world.versions() == before
    told = world.told(found)
    assert "Not published: the InfraValidator: serving_default: " in told
    assert "image of 96 x 96 pixels; expected 1 to 6000 in all" in told


def test_the_tuners_best_is_trained_and_segments_new_images(world, first, tmp_path):
    """After a model that was refused: this one is published, and was compared with a published."""
    before = world.versions()
    new = world.folder / "new"
    for seed in (31, 32):
        world.add(f"new_{seed}", seed, new)
    rates = (0.0021, 0.0043)  # neither is the default
    more = (
        "tuner.enabled=true",
        "tuner.trials=2",
        "tuner.steps=2",
        f"tuner.space.learning_rate={list(rates)}",
        f"bulk.images={new / 'images'}",
    )
    found = world.run(*more)
    assert executed(found) == MODEL_STEPS | {"Tuner", "BulkInferrer"}
    assert cached(found) == DATA_STEPS

    tuner = {key: Path(one[0].uri) for key, one in found["Tuner"].outputs.items()}
    tried = json.loads((tuner["tuner_results"] / "tuner_results.json").read_text())
    assert sorted(trial["learning_rate"] for trial in tried) == list(rates)
    best = max(tried, key=lambda trial: trial["score"])["learning_rate"]
    run = Path(found["Trainer"].outputs["model_run"][0].uri)
    assert load_config(run / "config.toml").learning_rate == best
    assert not list((world.root / "tuner").iterdir())
    assert world.versions() == [*before, str(int(before[-1]) + 1)]
    version = world.folder / "saved_models" / "tiny" / world.versions()[-1]
    assert read_served_card(version).model.config["learning_rate"] == best
    blessing = found["Evaluator"].outputs["blessing"][0].custom_properties
    published = {world.origin(number).model for number in before}
    assert blessing["baseline_model_id"].int_value in published

    masks = Path(found["BulkInferrer"].outputs["masks"][0].uri)
    assert f"Masks     {masks}/masks" in world.told(found, *more)
    keras = Path(world.model(found)) / models.KERAS / models.FILE
    wanted = predict_files(keras, new / "images", tmp_path / "wanted").written
    assert [path.name for path in wanted] == ["new_31_labels.png", "new_32_labels.png"]
    for path in wanted:
        assert (masks / "masks" / path.name).read_bytes() == path.read_bytes()

    world.add("new_33", 33, new)
    found = world.run(*more)
    assert executed(found) == {"BulkInferrer"}
    table = Path(found["BulkInferrer"].outputs["masks"][0].uri, "summary.csv").read_text()
    assert [line.partition(",")[0] for line in table.splitlines()[1:]] == [
        "new_31.png",
        "new_32.png",
        "new_33.png",
    ]


def test_each_version_tells_its_own_history(world, first):
    """Its data, checks, code and settings; not those of the models that it was the measure of."""
    seeds = []
    for number in world.versions():
        version = world.folder / "saved_models" / "tiny" / number
        found = lineage(version)
        assert found.missing is None and found.pipeline == "tiny"
        steps: dict[str, list] = {}
        for step in found.steps:
            steps.setdefault(step.component, []).append(step)
        assert set(steps) - {"Tuner", "BulkInferrer"} == ALL
        model = world.origin(number).model
        for name in ("Evaluator", "InfraValidator", "Pusher"):
            assert {step.inputs["model"] for step in steps[name]} == {(model,)}
        pushed = [note.properties for step in steps["Pusher"] for note in step.outputs]
        assert str(version) in [one.get("pushed_destination") for one in pushed]
        (trainer,) = steps["Trainer"]
        seeds.append(trainer.properties["custom_config"]["train"].get("seed", 0))
        (code,) = [note.content for note in trainer.outputs if note.type == "ModelRun"]
        assert code["keras_unet"] and code["tfx"]
    assert seeds[:2] == [0, 1]


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


def test_after_going_back_the_next_model_is_compared_with_what_is_served(world, first):
    folder = world.folder / "saved_models" / "tiny"
    served = world.origin(rollback(folder, to=1).name).model
    found = world.run("train.seed=7")
    blessing = found["Evaluator"].outputs["blessing"][0].custom_properties
    assert blessing["baseline_model_id"].int_value == served == world.origin("1").model


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
    from keras_unet.training.run_folder import locked_run

    with locked_run(world.root), pytest.raises(ConfigError, match="running a pipeline"):
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
