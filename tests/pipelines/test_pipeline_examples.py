"""ImageExampleGen itself: its executor on Beam, and what it compiles to."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("tfx")

from tfx.dsl.components.base.base_beam_executor import BaseBeamExecutor
from tfx.orchestration import pipeline
from tfx.proto import example_gen_pb2
from tfx.types import standard_artifacts

from keras_unet.data import LabelRule, load_samples
from keras_unet.data.pairs import Problem
from keras_unet.data.pipeline import targets
from keras_unet.data.synthetic import write_dataset
from keras_unet.errors import ConfigError, DataError
from pipelines.examples import DeadLetters, ExampleOptions, ImageExampleGen
from pipelines.examples.executor import Executor
from pipelines.sections import BeamSettings

pytestmark = pytest.mark.tfx

RULE = LabelRule(kind="instances")


def produce(base, out: Path, options: ExampleOptions, **given):
    """Runs the executor as TFX does; the artifacts are in `out`."""
    component = ImageExampleGen(str(base), options, **given)
    examples, letters = standard_artifacts.Examples(), DeadLetters()
    for artifact, name in ((examples, "examples"), (letters, "letters")):
        artifact.uri = str(out / name)
        (out / name).mkdir(parents=True)
    (out / "system").mkdir()
    context = BaseBeamExecutor.Context(
        beam_pipeline_args=BeamSettings().flags,
        unique_id="1",
        executor_output_uri=str(out / "system" / "executor_output.pb"),
    )
    outputs = {"examples": [examples], "dead_letters": [letters]}
    Executor(context).Do({}, outputs, dict(component.exec_properties))
    return examples, letters


def read(examples, split, rule=RULE):
    return load_samples(f"{examples.uri}/Split-{split}", rule=rule)[0]


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cells")
    return write_dataset(folder, train=12, val=3, size=(64, 64), seed=0)


@pytest.fixture(scope="module")
def made(cells, tmp_path_factory):
    options = ExampleOptions(rule=RULE, records_per_shard=4)
    out = tmp_path_factory.mktemp("made")
    return produce(cells / "train", out, options, eval_share=0.3)


def test_records_are_the_data_set(cells, made):
    examples, _ = made
    parts = {split: read(examples, split) for split in ("train", "eval")}
    assert examples.split_names == '["train", "eval"]'
    counts = [examples.get_int_custom_property(f"images_{split}") for split in parts]
    assert counts == [len(part) for part in parts.values()] and sum(counts) == 12 and min(counts)
    found = {sample.name: sample for part in parts.values() for sample in part}
    expected, _ = load_samples(cells / "train", rule=RULE)
    assert found.keys() == {sample.name for sample in expected}
    ordered = [found[sample.name] for sample in expected]
    for a, b in zip(ordered, expected, strict=True):
        np.testing.assert_array_equal(a.image, b.image)
        np.testing.assert_array_equal(a.instances, b.instances)
    for a, b in zip(targets(ordered, 2), targets(expected, 2), strict=True):
        np.testing.assert_array_equal(a.weight, b.weight)


def test_shards_are_compressed_even_and_alone(made):
    examples, letters = made
    count = examples.get_int_custom_property("images_train")
    files = sorted(Path(examples.uri, "Split-train").iterdir())
    shards = -(-count // 4)
    names = [f"data_tfrecord-{k:05d}-of-{shards:05d}.gz" for k in range(shards)]
    assert [file.name for file in files] == names
    assert all(file.read_bytes()[:2] == b"\x1f\x8b" for file in files)
    assert sorted(path.name for path in Path(examples.uri).iterdir()) == [
        "Split-eval",
        "Split-train",
    ]
    summary = json.loads(Path(letters.uri, "summary.json").read_text())
    assert (summary["images"], summary["bad"]) == (12, 0)
    assert Path(letters.uri, "dead_letters.jsonl").read_text() == ""


@pytest.fixture
def spoilt(cells, tmp_path):
    """Twelve images: a torn one, one with labels of another size, one whose labels are missing."""
    folder = tmp_path / "spoilt"
    shutil.copytree(cells / "train", folder)
    a, b, c = sorted((folder / "images").iterdir())[:3]
    a.write_bytes(a.read_bytes()[:60])
    Image.fromarray(np.ones((32, 64), np.uint8)).save(folder / "labels" / b.name)
    (folder / "labels" / c.name).unlink()
    return folder, (a, folder / "labels" / b.name, c)


def test_bad_images_are_counted_named_and_in_no_split(spoilt, tmp_path):
    folder, bad = spoilt
    options = ExampleOptions(rule=RULE, max_bad_share=0.25, records_per_shard=5)
    examples, letters = produce(folder, tmp_path / "out", options, eval_share=0.4)
    lines = Path(letters.uri, "dead_letters.jsonl").read_text().splitlines()
    found = {entry["file"]: entry for entry in map(json.loads, lines)}
    assert found.keys() == {str(path) for path in bad}
    assert "truncated or damaged" in found[str(bad[0])]["found"]
    assert found[str(bad[1])]["found"] == "is 32x64 (height x width)"
    assert found[str(bad[1])]["expected"].startswith("64x64")
    assert found[str(bad[2])]["found"] == "has no labels"
    assert [letters.get_int_custom_property(name) for name in ("images", "bad")] == [12, 3]
    names = {s.name for split in ("train", "eval") for s in read(examples, split)}
    assert names == {path.stem for path in (folder / "images").iterdir()} - {p.stem for p in bad}


def test_one_torn_upload_among_many_stops_no_run(tmp_path):
    torn = [[Problem(file="a.png", found="is truncated", expected="an image")]]
    judge, most = Executor()._judge, ExampleOptions(rule=RULE).max_bad_share
    judge(torn, {"train": 56, "eval": 14}, str(tmp_path), most)
    with pytest.raises(DataError, match=r"1 of 31 .*\(data\.max_bad_share; 0\.04 goes on without"):
        judge(torn, {"train": 24, "eval": 6}, str(tmp_path), most)


def test_more_bad_ones_than_tolerated_fail_the_run(spoilt, tmp_path):
    folder, bad = spoilt
    with pytest.raises(DataError) as error:
        produce(folder, tmp_path / "out", ExampleOptions(rule=RULE, max_bad_share=0.2))
    said = str(error.value)
    assert (
        "3 of 12 images cannot be used (25.0%); expected at most 20.0% (data.max_bad_share" in said
    )
    assert "; 0.25 goes on without them)" in said
    assert all(str(path) in said for path in bad)
    kept = Path(said.rpartition("All of them: ")[2])
    assert kept.parent.name == "system"  # TFX removes the outputs of what failed
    assert len(kept.read_text().splitlines()) == 3


def test_a_split_without_images_is_told_with_what_cannot_be_used(cells, tmp_path):
    folder = tmp_path / "other names"
    shutil.copytree(cells / "train", folder)
    for path in (folder / "labels").iterdir():
        path.rename(path.with_stem(f"{path.stem}_mask"))
    with pytest.raises(DataError, match="the split train and eval gets none of 0 images") as error:
        produce(folder, tmp_path / "out", ExampleOptions(rule=RULE))
    said = str(error.value).splitlines()
    assert said[1] == "What cannot be used:" and "has no labels; expected" in said[2]
    assert len(said) == 2 + 10 + 1 and said[-1] == "  - … (24 in all)"


def test_a_manifest_with_groups(cells, tmp_path):
    folder = tmp_path / "listed"
    shutil.copytree(cells / "train", folder)
    names = sorted(path.name for path in (folder / "images").iterdir())
    rows = [f"images/{n},labels/{n},mouse{k // 2}" for k, n in enumerate(names)]
    (folder / "cells.csv").write_text("\n".join(["image,label,group", *rows]))
    examples, _ = produce(
        folder, tmp_path / "out", ExampleOptions(rule=RULE), pattern="cells.csv", eval_share=0.5
    )
    groups = {s: {sample.group for sample in read(examples, s)} for s in ("train", "eval")}
    assert groups["train"] | groups["eval"] == {f"mouse{k}" for k in range(6)}
    assert not groups["train"] & groups["eval"]


def test_a_stack_of_semantic_labels(tmp_path):
    import tifffile

    rng = np.random.default_rng(0)
    pages = rng.integers(0, 60000, (24, 16, 18)).astype(np.uint16)
    labels = (pages > 30000).astype(np.uint8) * 255
    for kind, array in (("images", pages), ("labels", labels)):
        (tmp_path / "em" / kind).mkdir(parents=True)
        tifffile.imwrite(tmp_path / "em" / kind / "em.tif", array, photometric="minisblack")
    options = ExampleOptions(rule=LabelRule(num_classes=2))
    examples, _ = produce(tmp_path / "em", tmp_path / "out", options, eval_share=0.5)
    found = [s for split in ("train", "eval") for s in read(examples, split, options.rule)]
    assert len(found) == 24
    for sample in found:
        page = int(sample.name.removeprefix("em:"))
        np.testing.assert_array_equal(sample.image[..., 0], pages[page])
        np.testing.assert_array_equal(sample.classes, labels[page] // 255)


def given_splits():
    splits = [
        example_gen_pb2.Input.Split(name=name, pattern=f"{folder}/*/*")
        for name, folder in (("train", "train"), ("eval", "val"))
    ]
    return example_gen_pb2.Input(splits=splits)


def test_splits_that_are_given_as_such(cells, tmp_path):
    examples, _ = produce(
        cells, tmp_path / "a", ExampleOptions(rule=RULE), input_config=given_splits()
    )
    for split, folder in (("train", "train"), ("eval", "val")):
        expected, _ = load_samples(cells / folder, rule=RULE)
        assert [s.name for s in read(examples, split)] == [s.name for s in expected]
    with pytest.raises(DataError, match="group cells is in the splits train and eval"):
        options = ExampleOptions(rule=RULE, groups="cells")
        produce(cells, tmp_path / "b", options, input_config=given_splits())


def test_a_component_that_cannot_work_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="label rule"):
        ImageExampleGen("data", ExampleOptions(rule=LabelRule()))
    for share in (0, 1, -1):
        with pytest.raises(ConfigError, match="eval_share is"):
            ImageExampleGen("data", ExampleOptions(rule=RULE), eval_share=share)


def test_it_compiles_for_kubeflow(tmp_path):
    from tfx import v1 as tfx

    file = tmp_path / "pipeline.json"
    kubeflow = tfx.orchestration.experimental
    config = kubeflow.KubeflowV2DagRunnerConfig(default_image="registry/image:1")
    component = ImageExampleGen("/gcs/bucket", ExampleOptions(rule=RULE), "span-{SPAN}/*/*")
    kubeflow.KubeflowV2DagRunner(config, output_filename=str(file)).run(
        pipeline.Pipeline("images", "gs://bucket/root", components=[component])
    )
    found = json.loads(file.read_text())["pipelineSpec"]
    (spec,) = found["components"].values()
    assert spec["outputDefinitions"]["artifacts"].keys() == {"examples", "dead_letters"}
    (task,) = found["root"]["dag"]["tasks"].values()
    given = task["inputs"]["parameters"]
    options = given["options"]["runtimeValue"]["constantValue"]["stringValue"]
    assert ExampleOptions.model_validate_json(options) == ExampleOptions(rule=RULE)
    assert (
        "span-{SPAN}/*/*" in given["input_config"]["runtimeValue"]["constantValue"]["stringValue"]
    )
