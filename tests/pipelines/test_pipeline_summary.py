"""What a run says at its end: what is served, not only what this run would have published."""

from __future__ import annotations

import pytest

pytest.importorskip("tfx")

from ml_metadata.proto import metadata_store_pb2 as mlmd

from pipelines import summary as summaries
from pipelines.config import load_pipeline_config
from pipelines.executions import Step
from pipelines.summary import summary

pytestmark = pytest.mark.tfx


def told(folder, component, key, **properties):
    artifact = mlmd.Artifact(uri=str(folder / "artifact"))
    for name, value in properties.items():
        kind = "int_value" if isinstance(value, int) else "string_value"
        setattr(artifact.custom_properties[name], kind, value)
    config = load_pipeline_config(None, [f"push.folder={folder}", "name=cells"])
    return summary(config, [Step(component, "CACHED", {key: [artifact]})])


def test_a_version_that_is_not_the_newest_is_not_what_is_served(tmp_path, monkeypatch):
    """The settings of an earlier run: its Pusher comes from the cache."""
    for number in ("1", "2", "10"):
        (tmp_path / "cells" / number).mkdir(parents=True)

    def published(number):
        where = str(tmp_path / "cells" / number)
        return told(tmp_path, "Pusher", "pushed_model", pushed=1, pushed_destination=where)

    assert f"Published {tmp_path}/cells/10" in published("10")
    monkeypatch.setattr(summaries, "_program", lambda name: name)
    old = published("2")
    assert f"Published {tmp_path}/cells/2 in an earlier run; a server takes the newest, 10" in old
    assert f"Go back   keras-unet rollback {tmp_path}/cells --to 2" in old
    assert any("7, which is not there any more" in line for line in published("7"))


def test_commands_can_be_copied_where_the_environment_is_not_active(tmp_path, monkeypatch):
    (tmp_path / "cells" / "1").mkdir(parents=True)
    program = tmp_path / "my env" / "bin" / "keras-unet"
    program.parent.mkdir(parents=True)
    program.touch(0o755)
    monkeypatch.setattr(summaries.sys, "executable", str(program.with_name("python")))
    where = str(tmp_path / "cells" / "1")
    said = told(tmp_path, "Pusher", "pushed_model", pushed=1, pushed_destination=where)
    assert f"Origin    '{program}' lineage {where}" in said
    monkeypatch.setenv("PATH", str(program.parent))
    said = told(tmp_path, "Pusher", "pushed_model", pushed=1, pushed_destination=where)
    assert f"Origin    keras-unet lineage {where}" in said


def test_what_was_not_done_is_said(tmp_path):
    said = told(tmp_path, "Pusher", "pushed_model", pushed=0, reason="the Evaluator: too bad")
    assert "Not published: the Evaluator: too bad" in said
    said = told(tmp_path, "BulkInferrer", "masks", reason="the model is not blessed")
    assert "No masks: the model is not blessed" in said
    assert not any(line.startswith("Masks") for line in said)
    assert f"Masks     {tmp_path}/artifact/masks, {tmp_path}/artifact/summary.csv" in told(
        tmp_path, "BulkInferrer", "masks", images=3
    )
