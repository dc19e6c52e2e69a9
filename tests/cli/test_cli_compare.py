"""`evaluate` and `compare` as commands, in this process."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from conftest import make_trained
from PIL import Image
from typer.testing import CliRunner

from keras_unet.cli.app import app
from keras_unet.errors import DataError
from keras_unet.models import save_model


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """Two images with class labels, and a model of random weights in a run folder."""
    import numpy as np

    folder = tmp_path_factory.mktemp("work")
    rng = np.random.default_rng(0)
    for kind in ("images", "labels"):
        (folder / "data" / kind).mkdir(parents=True)
    for name in ("first", "second"):
        labels = np.kron(rng.integers(0, 2, (4, 5)), np.ones((8, 8))).astype(np.uint8)
        Image.fromarray(255 * labels).save(folder / "data" / "labels" / f"{name}.png")
        image = 90 * labels + rng.integers(0, 90, labels.shape, dtype=np.uint8)
        Image.fromarray(image).save(folder / "data" / "images" / f"{name}.png")
    (folder / "run").mkdir()
    save_model(make_trained(padding="same"), folder / "run" / "best.keras")
    return folder


def run(*arguments):
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return " ".join(result.output.split())


def test_evaluate_twice_and_compare(work, tmp_path):
    plain = run("evaluate", work / "run", work / "data", "--output", tmp_path / "a", "--objects")
    run(
        *("evaluate", work / "run", work / "data", "--output", tmp_path / "b", "--objects"),
        *("--symmetries", "flips", "--isbi"),
    )
    total = json.loads((tmp_path / "a" / "evaluation.json").read_text())["total"]
    assert f"pixel error {total['pixel_error']:.4f} (" in plain
    assert f"object F1 {total['objects']['f1']:.4f}" in plain
    assert "2 images are few" in plain and f"{tmp_path}/a/report.html" in plain
    assert "isbi" in json.loads((tmp_path / "b" / "evaluation.json").read_text())["total"]
    page = tmp_path / "c.html"
    printed = run("compare", tmp_path / "a", tmp_path / "b", "--output", page.with_suffix(""))
    stored = json.loads(page.with_suffix(".json").read_text())
    (iou,) = [d for d in stored["differences"] if d["score"] == ["mean_iou"]]
    assert f"{iou['difference']:+.4f}" in printed and str(page) in printed
    assert "mean IoU" in printed and "boundary F1" in printed  # in the 80 columns of a terminal
    assert stored["images"] == ["first", "second"] and page.is_file()


def test_settings_reach_the_scores(work, tmp_path):
    for tolerance in (0, 5):
        run(
            *("evaluate", work / "run", work / "data", "--output", tmp_path / str(tolerance)),
            *("--tolerance", tolerance, "--object-class", "cell"),
        )
    strict, loose = (
        json.loads((tmp_path / name / "evaluation.json").read_text()) for name in ("0", "5")
    )
    assert strict["settings"]["object_class"] == "cell" and "objects" in strict["total"]
    assert strict["total"]["boundary_f1"]["cell"] < loose["total"]["boundary_f1"]["cell"]
    with pytest.raises(DataError, match="another tolerance"):
        run("compare", tmp_path / "0", tmp_path / "5", "--output", tmp_path / "c.html")
    assert not (tmp_path / "c.html").exists()


def test_compare_costs_no_tensorflow():
    code = "import sys, keras_unet.evaluation.comparison, keras_unet.evaluation.evaluation;"
    code += "sys.exit(any(m in sys.modules for m in ('tensorflow', 'keras')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
