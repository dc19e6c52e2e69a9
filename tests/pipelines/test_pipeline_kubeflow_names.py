"""On Kubeflow models have names, and artifacts travel as JSON: blessings still find their model."""

from __future__ import annotations

import pytest

pytest.importorskip("tfx")

import model_artifacts as made
from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2
from test_pipeline_vertex import settings
from tfx.components.evaluator.executor import Executor
from tfx.orchestration.kubeflow.v2 import compiler_utils
from tfx.orchestration.kubeflow.v2.container import kubeflow_v2_entrypoint_utils as kubeflow
from tfx.types import standard_artifacts

from pipelines.config import load_pipeline_config
from pipelines.evaluator import component
from pipelines.evaluator.verdict import Verdict
from pipelines.pipeline import components
from pipelines.pusher import refusal

pytestmark = pytest.mark.tfx

NAME = "projects/1/locations/europe-west4/metadataStores/default/artifacts/"
BLESSED = Verdict(blessed=True, message="every condition holds", findings=())


def handed_on(artifact, names):
    """An artifact as the next container gets it: `kubeflow_v2_run_executor` does the same."""
    sent = kubeflow.to_runtime_artifact(artifact, names)
    sent.type.schema_title = compiler_utils.get_artifact_title(type(artifact))
    sent = json_format.Parse(json_format.MessageToJson(sent), type(sent)())
    return kubeflow._parse_raw_artifact(sent, names)


def named_model(tmp_path, number, names):
    """A Model of the metadata store of Vertex AI, as a container knows it."""
    sent = pipeline_spec_pb2.RuntimeArtifact(name=f"{NAME}{number}", uri=str(tmp_path / number))
    sent.type.schema_title = "tfx.Model"
    return kubeflow._parse_raw_artifact(sent, names)


def test_a_blessing_finds_its_model(tmp_path):
    names = {}
    model, other = (named_model(tmp_path, number, names) for number in ("12", "13"))
    assert model.id > 2**53  # JSON has no whole numbers of that size
    blessing = made.output(standard_artifacts.ModelBlessing, tmp_path / "blessing")
    component._bless(blessing, BLESSED, model, other)
    # what the entry point does for TFX's Evaluator and what derives from it
    kubeflow.refactor_model_blessing(blessing, names)
    assert blessing.get_string_custom_property("current_model_id") == f"{NAME}12"
    assert blessing.get_string_custom_property("baseline_model_id") == f"{NAME}13"
    infra = made.artifact(
        standard_artifacts.InfraBlessing, tmp_path, blessed=1, current_model=model.uri
    )
    infra.set_int_custom_property("current_model_id", model.id)
    given = [handed_on(one, names) for one in (blessing, infra)]
    assert refusal(model, *given) is None
    assert "judged another model" in refusal(other, *given)


def test_the_evaluator_of_that_pipeline_derives_from_tfxs(tmp_path):
    config = load_pipeline_config(None, settings(tmp_path / "root"))
    (evaluator,) = [one for one in components(config) if one.id == "Evaluator"]
    assert issubclass(evaluator.executor_spec.executor_class, Executor)
    local = load_pipeline_config(None, settings(tmp_path / "root", "runner=local"))
    (evaluator,) = [one for one in components(local) if one.id == "Evaluator"]
    assert not issubclass(evaluator.executor_spec.executor_class, Executor)


def test_new_images_need_not_be_seen_where_it_is_compiled(tmp_path):
    """Only workers see /gcs."""
    where = "bulk.images=/gcs/bucket/new"
    config = load_pipeline_config(None, settings(tmp_path / "root", where))
    (bulk,) = [one for one in components(config) if one.id == "BulkInferrer"]
    assert bulk.exec_properties["images"] == "/gcs/bucket/new"
    assert bulk.exec_properties["fingerprint"] == ""
