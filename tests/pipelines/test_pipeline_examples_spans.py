"""ImageExampleGen by TFX's local runner: spans, versions, and what runs again."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

pytest.importorskip("tfx")

from ml_metadata.proto import metadata_store_pb2
from tfx.orchestration import metadata, pipeline
from tfx.orchestration.local.local_dag_runner import LocalDagRunner

from keras_unet.data import LabelRule
from keras_unet.data.synthetic import write_dataset
from keras_unet.errors import DataError
from pipelines.config import load_pipeline_config
from pipelines.examples import ExampleOptions, ImageExampleGen
from pipelines.pipeline import beam_environment, beam_flags

pytestmark = pytest.mark.tfx

RULE = LabelRule(kind="instances")


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cells")
    return write_dataset(folder, train=12, val=1, size=(64, 64), seed=0)


def run_pipeline(root: Path, data: Path, pattern: str = "span-{SPAN}/*/*", workers: int = 1):
    """Runs a pipeline of ImageExampleGen alone; the states and artifacts of all runs so far."""
    options = ExampleOptions(rule=RULE, max_bad_share=0)
    component = ImageExampleGen(str(data), options, pattern=pattern, eval_share=0.3)
    config = load_pipeline_config(None, [f"beam.workers={workers}"])
    os.environ.update(beam_environment(config))
    connection = metadata.sqlite_metadata_connection_config(str(root / "metadata.sqlite"))
    try:
        LocalDagRunner().run(
            pipeline.Pipeline(
                pipeline_name="images",
                pipeline_root=str(root / "root"),
                components=[component],
                enable_cache=True,
                metadata_connection_config=connection,
                beam_pipeline_args=beam_flags(config),
            )
        )
    finally:
        with metadata.Metadata(connection) as handle:
            states = [e.last_known_state for e in handle.store.get_executions()]
            artifacts = handle.store.get_artifacts_by_type("Examples")
    names = metadata_store_pb2.Execution.State.Name
    spans = [artifact.custom_properties["span"].int_value for artifact in artifacts]
    return [names(state) for state in states], spans


def test_spans_and_caching(cells, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(cells / "train", data / "span-1")
    assert run_pipeline(tmp_path, data) == (["COMPLETE"], [1])
    (data / "span-1" / "images" / ".DS_Store").write_bytes(b"no image")
    again = run_pipeline(tmp_path, data, workers=2)  # how it is done changes nothing of it
    assert again == (["COMPLETE", "CACHED"], [1])

    label = next((data / "span-1" / "labels").iterdir())
    found = label.stat()
    os.utime(label, ns=(found.st_atime_ns, found.st_mtime_ns + 10**6))  # a label, by a millisecond
    assert run_pipeline(tmp_path, data) == (["COMPLETE", "CACHED", "COMPLETE"], [1, 1])

    shutil.copytree(data / "span-1", data / "span-2")
    states, spans = run_pipeline(tmp_path, data)
    assert (states[3:], spans) == (["COMPLETE"], [1, 1, 2])

    next((data / "span-2" / "labels").iterdir()).unlink()
    with pytest.raises(DataError, match="1 of 12 images cannot be used") as error:
        run_pipeline(tmp_path, data)
    kept = Path(str(error.value).rpartition("All of them: ")[2])
    assert "has no labels" in kept.read_text()
    with pytest.raises(DataError, match="no data to read"):
        run_pipeline(tmp_path, tmp_path / "nowhere")


def test_the_newest_version_of_the_newest_span(cells, tmp_path):
    data = tmp_path / "data"
    for name in ("week-07/v2", "week-10/v2", "week-10/v11"):
        shutil.copytree(cells / "train", data / name)
    (data / "week-10" / "v2" / "images").rename(data / "week-10" / "v2" / "unfit")
    (data / "week-07" / "v2" / "images").rename(data / "week-07" / "v2" / "unfit")
    pattern = "week-{SPAN:2}/v{VERSION}/*/*"
    assert run_pipeline(tmp_path, data, pattern) == (["COMPLETE"], [10])
