"""`keras-unet predict` as a person types it."""

from __future__ import annotations

import re

import numpy as np
import pytest
import tifffile
from PIL import Image
from typer.testing import CliRunner

from keras_unet.cli.app import app
from keras_unet.errors import ConfigError


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder with a model and three images."""
    from conftest import make_trained

    from keras_unet.models import TrainedModel, build_unet, save_model

    folder = tmp_path_factory.mktemp("predict")
    network = build_unet((None, None, 1), 2, filters=2, depth=1)
    save_model(TrainedModel(network, make_trained().card), folder / "run" / "best.keras")
    (folder / "new").mkdir()
    for name in "abc":
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 50), np.uint8)).save(
            folder / "new" / f"{name}.png"
        )
    return folder


def run(*arguments, code=0):
    done = CliRunner().invoke(app, ["predict", *map(str, arguments)])
    if done.exit_code != code:
        raise AssertionError(done.output) from done.exception
    return re.sub(r"\s+", " ", done.output)


def test_it_says_what_it_does_and_what_to_do_next(work, tmp_path):
    command = (work / "run", work / "new", "--output", tmp_path, "--tile", 40)
    printed = run(*command)
    assert re.search(r"2 × 3 tiles of \d+ × \d+ pixels.* as set", printed)  # what was chosen
    assert "3 files segmented. Look at" in printed
    assert f"keras-unet objects {tmp_path}" in printed
    (tmp_path / "b_mask.png").unlink()
    printed = run(*command)
    assert "b.png: begins anew, its results were removed" in printed
    assert "1 file segmented, 2 done already" in printed
    assert "3 files segmented." in run(*command, "--overwrite")


def test_all_options_reach_the_prediction(work, tmp_path, monkeypatch):
    given = {}

    def record(models, images, output, **options):
        given.update(options, models=models)
        raise KeyboardInterrupt

    monkeypatch.setattr("keras_unet.inference.files.file_predictor.predict_files", record)
    printed = run(
        *(work / "run", work / "run", work / "new", "--output", tmp_path),
        *("--threshold", 0.4, "--probabilities", "--dtype", "uint8", "--format", "tiff"),
        *("--objects", "csv,labels", "--border", "cell", "--no-overlays"),
        *("--symmetries", "all", "--average", "logits", "--blend", "gaussian"),
        *("--overlap", 0.4, "--tile", 99, "--memory", 1.5, "--batch-size", 3),
        *("--precision", "auto", "--overwrite"),
        *("--normalization", "255", "--class-names", "background,cell"),
        *("--split", "neck", "--neck", 0.8, "--seed-distance", 4, "--min-size", 9),
        *("--no-fill-holes", "--masks", "--diameter", "auto", "--pixel-size", "file"),
        code=130,
    )
    assert "the same command goes on from there" in printed
    del given["progress"], given["say"]
    assert given == {
        "models": [work / "run", work / "run"],
        "threshold": 0.4,
        "probabilities": True,
        "dtype": "uint8",
        "format": "tiff",
        "objects": ("csv", "labels"),
        "border": "cell",
        "overlays": False,
        "symmetries": "all",
        "average": "logits",
        "blend": "gaussian",
        "overlap": 0.4,
        "tile": 99,
        "memory": 1_500_000_000,
        "batch_size": 3,
        "precision": "auto",
        "overwrite": True,
        "normalization": "255",
        "class_names": "background,cell",
        "split": "neck",
        "neck": 0.8,
        "seed_distance": 4,
        "min_size": 9,
        "fill_holes": False,
        "masks": True,
        "diameter": "auto",
        "pixel_size": "file",
    }


def test_ensemble_symmetries_and_bits(work, tmp_path):
    run(
        *(work / "run", work / "run", work / "new" / "a.png", "--output", tmp_path),
        *("--symmetries", "flips", "--probabilities", "--dtype", "uint8", "--no-overlays"),
    )
    chances = tifffile.imread(tmp_path / "a_probabilities.tif")
    assert chances.dtype == np.uint8
    assert np.all(np.abs(chances.astype(int).sum(0) - 255) <= 1)
    assert not list(tmp_path.glob("*overlay*"))


def refused(*arguments):
    done = CliRunner().invoke(app, ["predict", *map(str, arguments)])
    assert isinstance(done.exception, ConfigError), done.output
    return str(done.exception)


def test_options_that_a_server_does_not_have(work, tmp_path):
    """Not left out in silence: a mask at another threshold is another result."""
    command = ("cells", work / "new", "--output", tmp_path, "--server", "grpc://127.0.0.1:1")
    said = refused(
        *(*command, "--threshold", 0.4, "--probabilities", "--objects", "csv", "--no-overlays"),
        *("--symmetries", "all", "--tile", 99, "--format", "png"),
    )
    for option in (
        *("--threshold", "--probabilities", "--objects", "--no-overlays", "--symmetries"),
        *("--tile", "--format"),
    ):
        assert option in said
    assert "--output" not in said and "--dtype" not in said
    assert "--precision" in refused(*command, "--precision", "float32")


@pytest.mark.parametrize("memory", ["nan", "inf", "0", "-1"])
def test_memory_that_is_none(work, tmp_path, memory):
    said = refused(work / "run", work / "new", "--output", tmp_path / "out", "--memory", memory)
    assert said.startswith("--memory: expected gigabytes above 0, got")


def test_blanks_between_kinds_of_objects(work, tmp_path):
    run(work / "run", work / "new" / "a.png", "--output", tmp_path, "--objects", "labels, csv")
    assert (tmp_path / "a_labels.tif").is_file() and (tmp_path / "a_objects.csv").is_file()
