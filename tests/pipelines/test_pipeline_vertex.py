"""The specification for Kubeflow Pipelines v2 and Vertex AI: complete, and able to run there."""

from __future__ import annotations

import importlib
import json

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("tfx")

from keras_unet.errors import ConfigError
from pipelines.config import load_pipeline_config
from pipelines.vertex import compile_pipeline

pytestmark = pytest.mark.tfx

IMAGE = "europe-docker.pkg.dev/project/unet/pipeline:1"


def settings(root, *more):
    return [
        f"root={root}",
        "runner=vertex",
        "name=cells",
        "data.images=/gcs/bucket/cells",
        "data.label_values=[0,255]",
        "data.channels=3",
        'data.dtypes=["uint8"]',
        "train.steps=7",
        "train.loss.sigma=3.0",
        "push.folder=/gcs/bucket/models",
        "tuner.enabled=true",
        f"vertex.image={IMAGE}",
        'beam.args=["--runner=DataflowRunner"]',
        *more,
    ]


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vertex")
    new = folder / "new"
    new.mkdir()
    Image.fromarray(np.zeros((16, 16), np.uint8)).save(new / "a.png")
    config = load_pipeline_config(None, settings(folder / "root", f"bulk.images={new}"))
    compile_pipeline(config, folder / "out" / "pipeline.json")
    return json.loads((folder / "out" / "pipeline.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def tasks(job):
    return job["pipelineSpec"]["root"]["dag"]["tasks"]


def test_every_component_is_there(job, tasks):
    assert set(tasks) == {
        "ImageExampleGen",
        "ImportSchemaGen",
        "StatisticsGen",
        "ExampleValidator",
        "SkewValidator",
        "DataReport",
        "AnomalyGate",
        "Transform",
        "Tuner",
        "Trainer",
        "latest_blessed_model-model-blessing-resolver",
        "latest_blessed_model-model-resolver",
        "Evaluator",
        "InfraValidator",
        "Pusher",
        "BulkInferrer",
    }
    assert job["pipelineSpec"]["pipelineInfo"]["name"] == job["displayName"] == "cells"


@pytest.mark.parametrize(
    ("task", "needs"),
    [
        ("ImageExampleGen", set()),
        ("StatisticsGen", {"ImageExampleGen", "ImportSchemaGen"}),
        ("AnomalyGate", {"StatisticsGen", "DataReport"}),
        ("Transform", {"ImageExampleGen", "ImportSchemaGen", "AnomalyGate"}),
        ("Tuner", {"Transform"}),
        ("Trainer", {"Transform", "Tuner"}),
        ("Evaluator", {"ImageExampleGen", "Trainer", "latest_blessed_model-model-resolver"}),
        ("InfraValidator", {"ImageExampleGen", "Trainer"}),
        ("Pusher", {"Trainer", "Evaluator", "InfraValidator"}),
        ("BulkInferrer", {"Trainer", "Evaluator"}),
    ],
)
def test_dependencies(tasks, task, needs):
    given = tasks[task]
    assert set(given.get("dependentTasks", [])) == needs
    sources = given.get("inputs", {}).get("artifacts", {}).values()
    assert {one["taskOutputArtifact"]["producerTask"] for one in sources} <= needs


def test_every_executor_can_be_started_in_the_image(job):
    """Each container is ours, and its executor is found by name, as Kubeflow's entry point does."""
    executors = job["pipelineSpec"]["deploymentSpec"]["executors"]
    containers = {k: v["container"] for k, v in executors.items() if "container" in v}
    assert len(containers) == 14
    for name, container in containers.items():
        assert container["image"] == IMAGE, name
        arguments = container["args"]
        path = arguments[arguments.index("--executor_class_path") + 1]
        module, _, class_name = path.rpartition(".")
        assert hasattr(getattr(importlib.import_module(module), class_name), "Do"), path
        assert arguments[-1] == "--runner=DataflowRunner"
    gen = containers["ImageExampleGen_executor"]
    assert gen["lifecycle"]["preCacheCheck"]["command"]


def parameters(tasks, task):
    given = tasks[task]["inputs"]["parameters"]
    values = {key: one["runtimeValue"]["constantValue"] for key, one in given.items()}
    return {key: next(iter(value.values())) for key, value in values.items()}


def test_parameters_carry_the_configuration(tasks):
    options = json.loads(parameters(tasks, "ImageExampleGen")["options"])
    assert options["rule"]["values"] == [0, 255] and options["sigma"] == 3.0
    training = json.loads(parameters(tasks, "Trainer")["custom_config"])
    assert training["train"]["steps"] == 7 and training["name"] == "cells"
    assert training["train"]["data"]["label_values"] == [0, 255]
    policy = json.loads(parameters(tasks, "Evaluator")["policy"])
    assert policy["thresholds"][0]["score"] == "mean_dice"
    assert parameters(tasks, "Pusher")["destination"] == "/gcs/bucket/models/cells"
    assert tasks["Trainer"]["cachingOptions"] == {"enableCache": True}


def test_what_kubeflow_cannot_do_is_said(tmp_path):
    config = load_pipeline_config(None, settings(tmp_path, "infra.server=docker"))
    with pytest.raises(ConfigError, match="expected embedded"):
        compile_pipeline(config, tmp_path / "pipeline.json")
