"""`keras-unet objects` as a user runs it, in a process of its own."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import tifffile
from skimage.draw import disk

from keras_unet.pictures import save_png


def run(*arguments, ok=True):
    code = (
        "import sys\n"
        "from keras_unet.cli import main\n"
        "try:\n"
        "    main()\n"
        "finally:\n"
        "    assert 'tensorflow' not in sys.modules\n"
    )
    command = [sys.executable, "-c", code, "objects", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode == 0) == ok, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return " ".join((done.stdout + done.stderr).split())


def test_objects_from_a_mask(tmp_path):
    mask = np.zeros((50, 80), np.uint8)
    for column in (20, 35, 60):
        mask[disk((25, column), 9)] = 255
    mask[2, 2] = 255
    save_png(tmp_path / "a_mask.png", mask)
    size = {"axes": "YX", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}
    (tmp_path / "images").mkdir()
    tifffile.imwrite(tmp_path / "images" / "a.tif", mask, ome=True, metadata=size)
    out = tmp_path / "out folder"
    printed = run(
        *(tmp_path / "a_mask.png", "--images", tmp_path / "images" / "a.tif", "--output", out),
        *("--split", "distance", "--min-size", 5, "--format", "csv, labels"),
    )
    assert "3 objects in 1 image, median diameter 17." in printed and "µm)" in printed
    assert f"Look at '{out}'/*_objects.png" in printed
    assert sorted(path.name for path in out.glob("[!.]*")) == [
        *("a_labels.tif", "a_objects.csv", "a_objects.png")
    ]
    assert tifffile.imread(out / "a_labels.tif").max() == 3
    assert (out / "a_objects.csv").read_text().count("cell") == 3
    assert "add --split neck" not in printed
    (out / "a_labels.tif").write_bytes(b"my own")
    again = (tmp_path / "a_mask.png", "--output", out, "--format", "labels")
    assert "objects in 1 image" in run(*again, "--overwrite")


def test_a_mistake_is_one_line(tmp_path):
    save_png(tmp_path / "a.png", np.eye(9, dtype=np.uint8) * 255)
    printed = run(tmp_path / "a.png", "--output", tmp_path / "out", "--split", "border", ok=False)
    assert printed.startswith("Error: split: Input should be 'neck' or 'distance'")
    assert not (tmp_path / "out").exists()
