"""The BulkInferrer: a folder of new images to masks, on Beam."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from unittest import mock

import pytest

pytestmark = pytest.mark.tfx
pytest.importorskip("tfx")

import model_artifacts as made
import numpy as np
import tifffile
from PIL import Image
from tfx.dsl.components.base.base_beam_executor import BaseBeamExecutor
from tfx.types import standard_artifacts

from keras_unet.data import make_cells, read_image
from keras_unet.errors import ConfigError, DataError
from keras_unet.inference import predict_files
from pipelines import models
from pipelines.bulk_inferrer import MaskInferrer, images_fingerprint
from pipelines.sections import BeamSettings


@pytest.fixture
def images(tmp_path):
    """Two PNGs, a stack of eleven, and a file that is no image."""
    folder = tmp_path / "new"
    folder.mkdir()
    for k in (2, 10):
        Image.fromarray(make_cells(40 + k, seed=k)[0]).save(folder / f"cells{k}.png")
    stack = np.stack([make_cells(32, seed=k)[0] for k in range(11)])
    tifffile.imwrite(folder / "stack.tif", stack)
    (folder / "torn.png").write_bytes(b"no image")
    return folder


def infer(tmp_path, images, *, blessed=1, name="result", **parameters):
    masks = made.output(standard_artifacts.InferenceResult, tmp_path / name)
    blessing = made.artifact(standard_artifacts.ModelBlessing, tmp_path, 2, blessed=blessed)
    context = BaseBeamExecutor.Context(beam_pipeline_args=BeamSettings().flags)
    with mock.patch("sys.argv", sys.argv[:1]):  # Beam's flags are read after pytest's
        executor = MaskInferrer.EXECUTOR_SPEC.executor_class(context)
    given = {"images": str(images), "fingerprint": images_fingerprint(str(images)), **parameters}
    executor.Do(
        {"model": [made.trained()], "model_blessing": [blessing]}, {"masks": [masks]}, given
    )
    return masks


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_masks_are_those_of_predict(tmp_path, images):
    masks = infer(tmp_path, images, options=json.dumps({"symmetries": "flips"}))
    folder = Path(masks.uri)
    assert masks.get_int_custom_property("images") == 13
    assert masks.get_int_custom_property("failed") == 1
    rows = table(folder / "summary.csv")
    assert [(row["image"], row["page"]) for row in rows] == [
        ("cells2.png", "0"),
        ("cells10.png", "0"),
        *(("stack.tif", str(page)) for page in range(11)),
    ]
    (failed,) = table(folder / "failed.csv")
    assert failed["image"] == "torn.png" and "is not a PNG" in failed["error"]
    (images / "torn.png").unlink()
    keras = Path(made.trained().uri) / models.KERAS / models.FILE
    wanted = predict_files(keras, images, tmp_path / "wanted", symmetries="flips")
    assert len(wanted.written) == 3
    for path in wanted.written:
        assert (folder / "masks" / path.name).read_bytes() == path.read_bytes()
    assert not [p for p in (folder / "masks").iterdir() if p.name.startswith(".")]
    first = read_image(folder / "masks" / "cells2_labels.png")[..., 0]
    assert int(rows[0]["objects"]) == first.max()
    assert float(rows[0]["foreground"]) == pytest.approx((first > 0).mean(), abs=1e-6)
    assert (rows[0]["height"], rows[0]["width"]) == ("42", "42")


def test_new_images_change_the_fingerprint(tmp_path, images):
    before = images_fingerprint(str(images))
    assert images_fingerprint(str(images)) == before
    Image.fromarray(make_cells(32, seed=1)[0]).save(images / "more.png")
    assert images_fingerprint(str(images)) != before
    with pytest.raises(DataError, match="changed since the pipeline was defined"):
        infer(tmp_path, images, fingerprint=before)
    masks = infer(tmp_path, images, fingerprint="", name="elsewhere")  # defined on another machine
    assert masks.get_int_custom_property("images") == 14


def test_a_model_that_is_not_blessed_infers_nothing(tmp_path, images):
    masks = infer(tmp_path, images, blessed=0)
    assert masks.get_string_custom_property("reason") == "the model is not blessed"
    assert list(Path(masks.uri).iterdir()) == []


def test_what_cannot_work_is_said(tmp_path, images):
    with pytest.raises(ConfigError, match="symmetry: unknown"):
        infer(tmp_path, images, options=json.dumps({"symmetry": "flips"}))
    for path in images.iterdir():
        if path.name != "torn.png":
            path.unlink()
    with pytest.raises(DataError, match=r"none of 1 files could be segmented; torn\.png"):
        infer(tmp_path, images, name="second")
