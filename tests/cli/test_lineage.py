"""`keras-unet lineage`: from a version back to the data, through a real metadata store."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from conftest import make_trained
from typer.testing import CliRunner

from keras_unet.cli.app import app
from keras_unet.errors import ExportError
from keras_unet.serving.card import CardFields, Origin, read_origin, served_card, write_card
from keras_unet.serving.lineage import lineage


def version(folder: Path, origin: Origin | None = None) -> Path:
    """As much of a published version as its lineage needs."""
    (folder / "assets.extra").mkdir(parents=True)
    card = make_trained().card
    card = card.model_copy(
        update={"versions": {"keras_unet": "0.1", "keras": "3"}, "config": {"steps": 4}}
    )
    values = (0, 255)
    options = {"precision": "float32", "tile": 188, "max_pixels": 100}
    write_card(served_card("cells", card, CardFields(), values=values, **options), folder)
    if origin is not None:
        (folder / "assets.extra" / "lineage.json").write_text(origin.model_dump_json())
    return folder


def origin(store: str = "", number: int = 5, uri: str = "/root/Trainer/model/4") -> Origin:
    return Origin(metadata=store, model=number, uri=uri, fingerprint="f")


def show(*arguments) -> str:
    result = CliRunner().invoke(app, ["lineage", *map(str, arguments)])
    assert result.exit_code == 0, result.exception
    return result.stdout


def test_a_version_exported_by_hand_says_so(tmp_path):
    said = show(version(tmp_path / "1"))
    assert "no pipeline pushed this version" in said
    assert "keras_unet 0.1" in said and "val_mean_dice 0.5" in said


def test_without_ml_metadata_it_says_what_it_knows_and_how_to_get_the_rest(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ml_metadata", None)
    folder = version(tmp_path / "1", origin("/root/metadata.sqlite"))
    said = show(folder)
    assert "the environment of the pipeline" in said and "val_mean_dice" in said
    found = json.loads(show(folder, "--json"))
    assert found["origin"]["model"] == 5 and found["steps"] == []
    assert found["settings"] == {"steps": 4}


def test_a_copy_and_damaged_records(tmp_path):
    folder = version(tmp_path / "3")
    (folder / "assets.extra" / "rollback.json").write_text('{"of": 1}')
    assert "version 1 (keras-unet rollback)" in show(folder)
    (folder / "assets.extra" / "rollback.json").write_text("{}")
    with pytest.raises(ExportError, match=r"rollback\.json: is no record"):
        lineage(folder)
    (folder / "assets.extra" / "lineage.json").write_text('{"model": "x"}')
    with pytest.raises(ExportError, match=r"lineage\.json: is no lineage"):
        read_origin(folder)
    with pytest.raises(ExportError, match="model_card"):
        lineage(tmp_path / "absent")


@pytest.fixture
def store(tmp_path):
    """A pipeline's history as TFX writes it: two runs, the second took all but the push from cache.

    Examples -> Statistics -> pages; Examples -> Trainer -> Evaluator, Pusher; beside an older model
    and a newer one of other data, of which the model and its statistics were the measure.
    """
    pytest.importorskip("ml_metadata")
    from ml_metadata.metadata_store import MetadataStore
    from ml_metadata.proto import metadata_store_pb2 as mlmd

    path = tmp_path / "metadata.sqlite"
    config = mlmd.ConnectionConfig()
    config.sqlite.filename_uri = str(path)
    config.sqlite.connection_mode = mlmd.SqliteMetadataSourceConfig.READWRITE_OPENCREATE
    held = MetadataStore(config)
    types: dict[str, int] = {}

    def artifact(kind: str, uri: str, **properties) -> int:
        if kind not in types:
            types[kind] = held.put_artifact_type(mlmd.ArtifactType(name=kind))
        one = mlmd.Artifact(type_id=types[kind], uri=uri, state=mlmd.Artifact.LIVE)
        for key, value in {"tfx_version": "1.21.0", "name": "x", **properties}.items():
            if isinstance(value, int):
                one.custom_properties[key].int_value = value
            else:
                one.custom_properties[key].string_value = value
        return held.put_artifacts([one])[0]

    def context(kind: str, name: str) -> int:
        number = held.put_context_type(mlmd.ContextType(name=kind))
        there = held.get_context_by_type_and_name(kind, name)
        if there is not None:
            return there.id
        return held.put_contexts([mlmd.Context(type_id=number, name=name)])[0]

    def execute(
        component: str, run: str, inputs=(), outputs=(), cached=False, keys=(), **properties
    ):
        kind = held.put_execution_type(mlmd.ExecutionType(name=f"tfx.{component}"))
        state = mlmd.Execution.CACHED if cached else mlmd.Execution.COMPLETE
        one = mlmd.Execution(type_id=kind, last_known_state=state)
        for key, value in properties.items():
            one.custom_properties[key].string_value = value
        number = held.put_executions([one])[0]
        for way, artifacts in ((mlmd.Event.INPUT, inputs), (mlmd.Event.OUTPUT, outputs)):
            for each in dict.fromkeys(artifacts):  # one event, though given twice
                event = mlmd.Event(artifact_id=each, execution_id=number, type=way)
                names = [k for k, one in zip(keys, artifacts, strict=False) if one == each]
                for key in names if way == mlmd.Event.INPUT and names else ["data"]:
                    event.path.steps.add(key=key)
                    event.path.steps.add(index=0)
                held.put_events([event])
        for each in (("pipeline", "cells"), ("pipeline_run", run), ("node", f"cells.{component}")):
            link = mlmd.Association(execution_id=number, context_id=context(*each))
            held.put_attributions_and_associations([], [link])
        return number

    dead = tmp_path / "dead"
    dead.mkdir()
    (dead / "summary.json").write_text(
        '{"images": 9, "written": {"train": 6, "eval": 2}, "bad": 1}'
    )
    examples = artifact("Examples", "/root/ex/1", span="0", input_fingerprint="abc")
    letters = artifact("keras_unet.DeadLetters", str(dead))
    statistics = artifact("ExampleStatistics", "/root/stats/2")
    anomalies = artifact("ExampleAnomalies", "/root/skew/2")
    pages = artifact("keras_unet.DataPages", "/root/pages/2")
    model = artifact("Model", "/root/Trainer/model/4")
    older = artifact("Model", "/root/Trainer/model/3")
    blessing = artifact("ModelBlessing", "/root/bless/5", blessed=1, blessing_message="all hold")
    pushed = artifact("PushedModel", "/root/push/6", pushed=1, pushed_version="3")
    config = json.dumps({"train": {"steps": 4, "loss": {"w0": 5.0}}, "name": "cells"})
    execute("ImageExampleGen", "first", (), (examples, letters))
    execute("StatisticsGen", "first", (examples,), (statistics,))
    measured = {"keys": ("baseline_statistics", "statistics")}
    execute("SkewValidator", "first", (statistics, statistics), (anomalies,), **measured)
    execute("DataReport", "first", (statistics, anomalies), (pages,), keys=("statistics", "skew"))
    other = artifact("ExampleStatistics", "/root/stats/9")
    drift = artifact("ExampleAnomalies", "/root/drift/9")
    execute("DriftValidator", "other", (statistics, other), (drift,), **measured)
    execute("Other", "first", (examples,), (older,))
    execute("Trainer", "first", (examples,), (model,), custom_config=config)
    execute("Evaluator", "first", (model, examples), (blessing,))
    execute("Trainer", "second", (examples,), (model,), cached=True, custom_config=config)
    execute("Pusher", "second", (model, blessing), (pushed,))
    newer = artifact("Model", "/root/Trainer/model/9")
    refused = artifact("ModelBlessing", "/root/bless/9", blessed=0, blessing_message="it is worse")
    compared = {"keys": ("model", "baseline_model")}
    execute("Evaluator", "other", (newer, model), (refused,), **compared)
    return path, model


@pytest.mark.tfx
def test_the_way_back_through_the_store(store, tmp_path):
    path, number = store
    folder = version(tmp_path / "3", origin(str(path), number))
    found = lineage(folder)
    assert found.pipeline == "cells" and set(found.runs) == {"first", "second"}
    names = [step.component for step in found.steps]
    checks = ["StatisticsGen", "SkewValidator", "DataReport"]
    assert names == ["ImageExampleGen", *checks, "Trainer", "Evaluator", "Pusher"]
    steps = dict(zip(names, found.steps, strict=True))
    examples, letters = steps["ImageExampleGen"].outputs
    assert examples.properties == {"input_fingerprint": "abc", "span": "0", "tfx_version": "1.21.0"}
    assert letters.content["written"] == {"train": 6, "eval": 2}
    assert steps["Trainer"].inputs == {"data": (examples.id,)}
    assert set(steps["SkewValidator"].inputs) == {"statistics", "baseline_statistics"}
    assert steps["Trainer"].properties["custom_config"]["train"]["steps"] == 4
    said = show(folder)
    for text in (
        "loss.w0: 5",
        "blessing_message: all hold",
        "pushed_version: 3",
        "train 6, eval 2",
    ):
        assert text in said, said
    assert "it is worse" not in said
    assert json.loads(show(folder, "--json"))["steps"][-1]["component"] == "Pusher"


@pytest.mark.tfx
def test_another_store_is_told_apart(store, tmp_path):
    path, number = store
    folder = version(tmp_path / "3", origin(str(tmp_path / "gone.sqlite"), number))
    assert "--metadata" in lineage(folder).missing and lineage(folder).steps == ()
    assert len(lineage(folder, path).steps) == 7
    other = version(tmp_path / "4", origin("", number, "/elsewhere"))
    with pytest.raises(ExportError, match=r"holds no model \d at /elsewhere"):
        lineage(other, path)
    (tmp_path / "text").write_text("no store")
    with pytest.raises(ExportError, match="cannot be read as a metadata store"):
        lineage(folder, tmp_path / "text")
