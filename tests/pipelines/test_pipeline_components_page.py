"""docs/components.md: its component runs, is cached by what it depends on, and compiles."""

from __future__ import annotations

import importlib
import json
import re
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.tfx
pytest.importorskip("tfx")

import model_artifacts as made
from pydantic import Field, ValidationError
from tfx import v1 as tfx
from tfx.orchestration.metadata import sqlite_metadata_connection_config
from tfx.types.standard_artifacts import PushedModel

from keras_unet.errors import ConfigError
from keras_unet.settings import AnyText, Section
from pipelines.executions import open_store, runs, steps

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "components.md").read_text("utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The component's module, which TFX imports by its name, with the page's other code in it."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "announcer_of_the_page.py").write_text("\n\n".join(BLOCKS[:2]), encoding="utf-8")
    sys.path.insert(0, str(folder))
    try:
        yield importlib.import_module("announcer_of_the_page")
    finally:
        sys.path.remove(str(folder))


@pytest.fixture(scope="module")
def settings():
    names = {"AnyText": AnyText, "Field": Field, "Section": Section, "__name__": __name__}
    exec(BLOCKS[2], names)
    return names["AnnounceSettings"]


def announced(page, tmp_path, name, people='["ada"]', **properties):
    pushed = made.artifact(PushedModel, tmp_path / "pushed", **properties)
    result = made.output(page.Announcement, tmp_path / name)
    given = {"text": "there", "people": people}
    made.run(page.Announcer, {"pushed_model": pushed}, {"announcement": result}, **given)
    return result


def test_it_does_what_the_page_says(page, tmp_path):
    result = announced(page, tmp_path, "a", pushed_destination="/models/cells/3")
    found = json.loads(Path(result.uri, "announcement.json").read_text())
    assert found == {"version": "/models/cells/3", "text": "there", "people": ["ada"]}
    assert result.get_int_custom_property("announced") == 1
    assert announced(page, tmp_path, "b").get_int_custom_property("announced") == 0
    with pytest.raises(ConfigError, match="announce.people is empty"):
        announced(page, tmp_path, "c", people="[]")


def test_its_settings_are_checked(settings):
    assert settings().people == ()
    with pytest.raises(ValidationError, match="persons"):
        settings(persons=["ada"])


def pipeline(page, chosen, tmp_path):
    source = tfx.dsl.Importer(source_uri=str(tmp_path / "pushed"), artifact_type=PushedModel)
    pusher = type("Pusher", (), {"outputs": {"pushed_model": source.outputs["result"]}})
    return tfx.dsl.Pipeline(
        pipeline_name="page",
        pipeline_root=str(tmp_path / "root"),
        components=[source.with_id("Pushed"), page.announce(pusher, chosen)],
        enable_cache=True,
        metadata_connection_config=sqlite_metadata_connection_config(str(tmp_path / "store")),
    )


def test_its_parameters_decide_whether_it_runs_again(page, settings, tmp_path):
    (tmp_path / "pushed").mkdir()

    def state(**changes):
        chosen = settings(people=("ada",), **changes)
        tfx.orchestration.LocalDagRunner().run(pipeline(page, chosen, tmp_path))
        store = open_store(tmp_path / "store")
        last = {s.component: s.state for s in steps(store, runs(store, "page")[-1])}
        return last["Announcer"]

    assert state() == "COMPLETE"
    assert state() == "CACHED"
    assert state(text="another") == "COMPLETE"


def test_it_compiles_for_kubeflow(page, settings, tmp_path):
    config = tfx.orchestration.experimental.KubeflowV2DagRunnerConfig(default_image="image:1")
    runner = tfx.orchestration.experimental.KubeflowV2DagRunner(
        config=config, output_dir=str(tmp_path), output_filename="page.json"
    )
    job = runner.run(pipeline(page, settings(people=("ada",)), tmp_path), write_out=True)
    assert "Announcer" in job["pipelineSpec"]["root"]["dag"]["tasks"]
