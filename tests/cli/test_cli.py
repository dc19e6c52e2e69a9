"""The commands as a user runs them, in processes of their own."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from keras_unet.data.synthetic import write_dataset
from keras_unet.pictures import without_legend

COMMAND = [sys.executable, "-c", "from keras_unet.cli import main; main()"]
SMALL = ["--set", "model.filters=2", "--set", "model.depth=2", "--set", "steps_per_epoch=2"]
SMALL += ["--set", "augment=flips"]


def run(*arguments, ok=True, cwd=None):
    command = [*COMMAND, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)
    assert (done.returncode == 0) == ok, done.stdout + done.stderr
    assert not (ok and done.stderr), done.stderr  # neither TensorFlow's notices nor warnings
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("cells"), train=3, val=2, size=(64, 80), seed=0)


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    """A run folder made by `keras-unet train`, and what it printed."""
    work = tmp_path_factory.mktemp("work")
    printed = run(
        *("train", data / "train", "--validation", data / "val", "--instances", *SMALL),
        *("--set", "steps=4", "--set", "name=first"),
        cwd=work,
    )
    return work / "runs" / "first", printed


def test_train_leaves_a_whole_run(finished):
    folder, printed = finished
    names = {path.name for path in folder.iterdir()}
    assert {"config.toml", "data.json", "history.csv", "best.keras", "last.keras"} <= names
    assert {"curves.png", "evaluation.json", "overlays", "tensorboard"} <= names
    assert len(list((folder / "overlays").glob("*.png"))) == 2
    rows = (folder / "history.csv").read_text().splitlines()
    assert len(rows) == 3  # two epochs of two steps
    assert "val_mean_dice" in rows[0]
    assert "keras-unet predict runs/first" in " ".join(printed.split())
    total = json.loads((folder / "evaluation.json").read_text())["total"]
    assert set(total["iou"]) == {"background", "foreground"}


def test_a_taken_name_is_not_overwritten(finished, data):
    folder, _ = finished
    before = (folder / "best.keras").read_bytes()
    printed = run(
        *("train", data / "train", "--instances", *SMALL, "--set", "steps=2"),
        *("--set", "name=first"),
        ok=False,
        cwd=folder.parents[1],
    )
    assert "a run of this name is there already" in " ".join(printed.split())
    assert (folder / "best.keras").read_bytes() == before


def test_predict_a_folder(finished, data, tmp_path):
    folder, _ = finished
    options = ("--probabilities", "--masks", "--threshold", 0.5, "--min-size", 0)
    run("predict", folder, data / "val", "--output", tmp_path / "a", *options)
    names = sorted(p.name for p in (data / "val" / "images").iterdir())
    for name in names:
        stem = Path(name).stem
        mask = np.asarray(Image.open(tmp_path / "a" / f"{stem}_mask.png"))
        assert mask.shape == (64, 80)
        assert set(np.unique(mask)) <= {0, 255}
        labels = np.asarray(Image.open(tmp_path / "a" / f"{stem}_labels.png"))
        assert labels.dtype == np.uint16 and not (labels == 0)[mask > 0].any()
        chances = tifffile.imread(tmp_path / "a" / f"{stem}_probabilities.tif")
        assert chances.shape == (2, 64, 80)
        np.testing.assert_allclose(chances.sum(0), 1, atol=1e-5)
        np.testing.assert_array_equal(chances[1] > 0.5, mask > 0)
        with Image.open(tmp_path / "a" / f"{stem}_overlay.png") as overlay:
            assert overlay.height > 64  # its legend
            assert without_legend(overlay).size == (80, 64)


@pytest.mark.parametrize("count", [2, 3, 4])  # three or four pages are no colour image
def test_predict_a_stack(finished, data, tmp_path, count):
    folder, _ = finished
    files = sorted((data / "train" / "images").iterdir()) * 2
    pages = np.stack([np.asarray(Image.open(file)) for file in files[:count]])
    tifffile.imwrite(tmp_path / "pages.ome.tif", pages, metadata={"axes": "ZYX"})
    printed = run(
        *("predict", folder, tmp_path / "pages.ome.tif", "--output", tmp_path, "--probabilities"),
        *("--masks", "--threshold", 0.5),
    )
    assert "1 file" in printed
    masks = tifffile.imread(tmp_path / "pages_mask.tif")
    chances = tifffile.imread(tmp_path / "pages_probabilities.tif")
    assert masks.shape == (count, 64, 80)
    assert chances.shape == (count, 2, 64, 80)
    np.testing.assert_array_equal(masks > 0, chances[:, 1] > chances[:, 0])
    assert {p.name for p in (tmp_path / ".predict").iterdir()} == {"lock", "pages.json"}


def test_a_doubled_name_is_refused(finished, data, tmp_path):
    folder, _ = finished
    (source,) = sorted((data / "val" / "images").iterdir())[:1]
    for name in ("a.png", "a.tif"):
        Image.open(source).save(tmp_path / name)
    printed = run("predict", folder, tmp_path, "--output", tmp_path / "out", ok=False)
    assert "has the same name as a.png" in " ".join(printed.split())


def test_evaluate_and_export(finished, data, tmp_path):
    folder, _ = finished
    printed = run("evaluate", folder, data / "val", "--output", tmp_path / "scores")
    total = json.loads((tmp_path / "scores" / "evaluation.json").read_text())["total"]
    assert total == json.loads((folder / "evaluation.json").read_text())["total"]
    assert f"{total['mean_dice']:.4f}" in printed
    for number in (1, 2):
        printed = run("export", folder, tmp_path / "models" / "cells")
        assert f"cells/{number}" in "".join(printed.split())
        assert (tmp_path / "models" / "cells" / str(number) / "saved_model.pb").is_file()


def test_rank_says_what_to_label_and_what_then(finished, data, tmp_path):
    folder, _ = finished
    printed = run("rank", folder, data / "val" / "images", "--output", tmp_path / "ranking")
    rows = (tmp_path / "ranking" / "ranking.csv").read_text().splitlines()
    first, second = (row.split(",")[1] for row in rows[1:])
    assert f"Label these 2 first: {first}, {second}" in printed
    assert f"train LABELLED --instances --set init={folder}" in printed
    assert (tmp_path / "ranking" / "ranking.html").is_file()


@pytest.mark.parametrize("epochs", [0, 2])
def test_ctrl_c_leaves_a_usable_run(data, tmp_path, epochs):
    command = [*COMMAND, "train", str(data / "train"), "--instances", *SMALL]
    command += ["--set", "minutes=30", "--set", "name=stopped"]
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    history = tmp_path / "runs" / "stopped" / "history.csv"
    deadline = time.monotonic() + 300
    while not (history.is_file() and history.read_text().count("\n") > epochs - (epochs == 0)):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    printed, _ = process.communicate(timeout=120)
    assert process.returncode == 130, printed
    assert "keras-unet train --resume runs/stopped" in " ".join(printed.split())
    run("predict", history.parent, data / "val", "--output", tmp_path / "out")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "nowhere"], "nowhere: does not exist"),
        (["train"], "data.images: must be given"),
        (["train", "DATA"], 'set data.label_kind = "instances"'),
        (["train", "DATA", "--instances", "--set", "filters=3"], "filters: unknown key"),
        (["train", "DATA", "--instances", "--set", "augment=strong"], "strong"),
        (["predict", "nowhere", "DATA"], "nowhere: no trained model here"),
        (["export", "nowhere", "x"], "nowhere: no trained model here"),
    ],
)
def test_mistakes_get_one_readable_message(data, tmp_path, arguments, message):
    arguments = [data / "train" if a == "DATA" else a for a in arguments]
    printed = run(*arguments, ok=False, cwd=tmp_path)
    assert message in " ".join(printed.split())
    assert "Traceback" not in printed
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("code", ["import keras_unet", "import keras_unet.cli.app"])
def test_help_and_import_cost_no_tensorflow(code):
    check = f"import sys; {code}; heavy = {{'tensorflow', 'keras', 'scipy', 'matplotlib'}}"
    check += " & set(sys.modules); assert not heavy, heavy"
    subprocess.run([sys.executable, "-c", check], check=True)


def test_quiet_commands_show_errors_only(finished, data, tmp_path):
    folder, _ = finished
    image = next((data / "val" / "images").glob("*.png"))
    assert run("predict", folder, image, "--output", tmp_path / "out", "-q") == ""
    assert run("objects", tmp_path / "out", "--output", tmp_path / "objects", "--quiet") == ""
    assert list((tmp_path / "objects").iterdir())
    assert "does not exist" in run("predict", folder, tmp_path / "absent.png", "-q", ok=False)


@pytest.mark.parametrize("arguments", [["--version"], ["-h"], ["predict", "-h"]])
def test_the_module_is_the_command(arguments):
    from keras_unet import __version__

    command = [sys.executable, "-m", "keras_unet", *arguments]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert (f"keras-unet {__version__}" if arguments == ["--version"] else "--help") in printed


def test_settings_are_listed():
    assert "loss.w0" in run("train", "--show-settings")
