"""The pipeline's settings, and what it says to the terminal. Needs no TFX."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from keras_unet.data.label_rule import LabelRule
from keras_unet.errors import ConfigError, DataError, RemoteError
from pipelines.config import PipelineConfig, load_pipeline_config, train_tree
from pipelines.local import run_local
from pipelines.progress import Progress
from pipelines.trouble import PipelineError, message

EXAMPLE = Path(__file__).resolve().parents[2] / "pipelines" / "example.toml"


def test_example_holds_the_defaults():
    """So that what it says about them stays true."""
    example = load_pipeline_config(EXAMPLE)
    assert example.data.images == "data/cells"
    given = example.model_dump(exclude={"data": {"images"}})
    assert given == PipelineConfig().model_dump(exclude={"data": {"images"}})


def test_file_then_settings(tmp_path):
    file = tmp_path / "pipeline.toml"
    file.write_text('name = "cells"\n[data]\nlabel_kind = "instances"\n[train]\nsteps = 10\n')
    config = load_pipeline_config(file, ["train.steps=20", "train.loss.w0=5"], data={"images": "x"})
    assert (config.name, config.data.images) == ("cells", "x")
    assert config.train == {"steps": 20, "loss": {"w0": 5}}
    assert config.data.rule == LabelRule(kind="instances")
    assert config.destination == str(Path("saved_models/cells").resolve())


@pytest.mark.parametrize(
    ("setting", "found"),
    [
        ("nothing=1", "nothing: unknown key"),
        ("data.image=1", "data.image: unknown key"),
        (
            "train.stepz=1",
            "--set: 1 bad setting(s)\n  train.stepz: unknown key; did you mean train.steps?",
        ),
        ("train.dropout=0.1", "train.dropout: unknown key; did you mean train.model.dropout?"),
        ("train.output=here", "the pipeline sets it"),
        ("train.data.images=here", "the pipeline sets it"),
        ("data.groups=(", "no regular expression"),
        ("data.images=gs://bucket/cells", "mount the bucket"),
        ("data.span=3", "span is 3, but images is None, without {SPAN}"),
        ("data.eval_share=1.5", "data.eval_share"),
        ("name=Über", "name"),
        ('evaluation.thresholds=[{score="mean_dice"}]', "expected at_least"),
        ("data.num_classes=1", "expected 2 or more"),
    ],
)
def test_bad_settings_are_named(setting, found):
    with pytest.raises(ConfigError, match="bad setting") as raised:
        load_pipeline_config(None, [setting])
    assert found in str(raised.value)


@pytest.mark.parametrize(
    ("images", "folder", "pattern"),
    [
        ("/data/cells", "/data/cells", "*/*"),
        ("/data/cells/", "/data/cells", "*/*"),
        ("/data/cells.csv", "/data", "cells.csv"),
        ("/data/span-{SPAN}", "/data", "span-{SPAN}/*/*"),
        ("/data/span-{SPAN}/v{VERSION}", "/data", "span-{SPAN}/v{VERSION}/*/*"),
        ("/data/{SPAN}/manifest.csv", "/data", "{SPAN}/manifest.csv"),
        ("cells.csv", str(Path.cwd()), "cells.csv"),
    ],
)
def test_source_as_tfx_takes_it(images, folder, pattern):
    assert load_pipeline_config(None, data={"images": images}).data.source == (folder, pattern)


def test_training_gets_the_labels_meaning():
    config = load_pipeline_config(None, ["data.label_values=[0,128,255]", "train.minutes=5"])
    assert train_tree(config) == {
        "minutes": 5,
        "data": {"label_values": (0, 128, 255), "normalization": "dataset"},
    }


def test_remote_places_stay_as_they_are():
    config = load_pipeline_config(None, ["root=gs://bucket/run", "push.folder=gs://bucket/models"])
    assert config.pipeline_root == "gs://bucket/run"
    assert config.destination == "gs://bucket/models/synthetic"


def test_made_up_cells_are_no_version_of_ones_own_model(tmp_path):
    own = load_pipeline_config(None, data={"images": "cells"})
    made_up = load_pipeline_config(None, ["train.steps=5"], data={"images": None})
    assert (own.name, made_up.name) == ("unet", "synthetic")
    assert own.pipeline_root != made_up.pipeline_root
    assert own.destination != made_up.destination
    assert load_pipeline_config(None, ["name=cells"]).name == "cells"
    (tmp_path / "pipeline.toml").write_text('[data]\nimages = "cells"\n')
    assert load_pipeline_config(tmp_path / "pipeline.toml").name == "unet"


@pytest.mark.parametrize(
    ("setting", "uri"),
    [
        ("metadata=gs://bucket/metadata.sqlite", "gs://bucket/metadata.sqlite"),
        ("bulk.images=s3://bucket/new", "s3://bucket/new"),
        ("data.images=az:/bucket/cells", "az:/bucket/cells"),  # as pathlib would fold it
    ],
)
def test_what_must_be_here_is_no_uri(setting, uri):
    with pytest.raises(ConfigError, match="expected a path") as raised:
        load_pipeline_config(None, [setting])
    assert uri in str(raised.value)


def test_a_run_says_first_that_its_versions_go_nowhere(tmp_path):
    settings = [f"root={tmp_path / 'root'}", "push.folder=nosuch://bucket/models"]
    with pytest.raises(RemoteError, match="nosuch://bucket/models/synthetic: nothing is installed"):
        run_local(load_pipeline_config(None, settings), print)
    with pytest.raises(ConfigError, match="root is gs://bucket/run; a local run needs a local"):
        run_local(load_pipeline_config(None, ["root=gs:/bucket/run"]), print)
    assert list(tmp_path.iterdir()) == []


def test_beam_flags():
    """Never Beam's DirectRunner, which would download another engine and run that."""
    for workers, mode in ((1, "in_memory"), (4, "multi_processing")):
        flags = load_pipeline_config(None, [f"beam.workers={workers}"]).beam.flags
        own = [f"--direct_running_mode={mode}", f"--direct_num_workers={workers}"]
        assert flags == ["--runner=FnApiRunner", *own]
    given = load_pipeline_config(None, ['beam.args=["--runner=FlinkRunner", "--parallelism=8"]'])
    assert given.beam.flags == ["--runner=FlinkRunner", "--parallelism=8"]


def test_message_of_the_deepest_own_error():
    try:
        try:
            raise DataError("a.png: found nothing\n  - in it")
        except DataError as error:
            raise RuntimeError("Beam's long text") from error
    except RuntimeError as error:
        assert message(error) == "a.png: found nothing\n  - in it"


def test_message_out_of_a_workers_traceback():
    text = (
        'Traceback (most recent call last):\n  File "x.py", line 1\n'
        "keras_unet.errors.DataError: a.png: found nothing\n  - in it\n\n"
        "During handling of the above exception, another exception occurred:\n\n"
        "Traceback (most recent call last):\n"
        "keras_unet.errors.DataError: a.png: found nothing\n  - in it [while running 'Read/Map']\n"
    )
    assert message(RuntimeError(text)) == "a.png: found nothing\n  - in it"


def test_message_of_a_strange_error_is_one_line():
    assert message(ValueError("one\n" * 20 + "the last")) == "ValueError: the last"
    assert message(ValueError("short")) == "ValueError: short"


def test_progress_tells_what_became_of_each_component():
    said: list[str] = []
    progress = Progress(said.append)
    log = logging.getLogger("test_pipeline_config")
    log.setLevel(logging.INFO)
    log.addHandler(progress)
    for name, how in (
        ("A", "Going to run a new execution %d"),
        ("B", "A cached execution %d is used."),
    ):
        log.info("Component %s is running.", name)
        log.info(how, 7)
        log.info("Component %s is finished.", name)
    log.info("Component %s is running.", "C")
    progress.failed()
    assert [line.split()[:2] for line in said] == [
        ["A", "executed"],
        ["B", "cached"],
        ["C", "failed"],
    ]


def test_a_component_without_inputs_ends_the_run():
    """TFX's local runner would go on."""
    log = logging.getLogger("test_pipeline_config.unresolved")
    log.setLevel(logging.INFO)
    log.addHandler(Progress(print))
    log.info("Component %s is running.", "Gate")
    log.error("[%s] Input resolution error: %s", "Gate", "inputs[pages] has 0\nmore")
    with pytest.raises(PipelineError, match=r"inputs\[pages\] has 0$"):
        log.info("Component %s is finished.", "Gate")
