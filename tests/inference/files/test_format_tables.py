"""A kind of file is one entry of a table: predictions write it, and the commands' help lists it."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

ENTRIES = """
import numpy as np
from keras_unet.inference.files.mask_formats import MASK_FORMATS, MaskFormat
from keras_unet.inference.objects.object_formats import OBJECT_FORMATS, ObjectFormat

def write(path, sheet):
    with path.open("wb") as file:
        np.save(file, sheet.read(0, 0, slice(0, sheet.size[0])))

class Count:
    def __init__(self, path, pixel_size):
        self.path, self.count = path, 0
    def add(self, objects):
        self.count += len(objects.table["label"])
    def finish(self):
        self.path.write_text(str(self.count))
    def close(self):
        pass

MASK_FORMATS["numpy"] = MaskFormat("NumPy", ".npy", write)
OBJECT_FORMATS["count"] = ObjectFormat("_count.txt", Count, usual=False)

from keras_unet.cli import main
main()
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    from conftest import make_trained

    from keras_unet.models import TrainedModel, build_unet, save_model

    network = build_unet((None, None, 1), 2, filters=2, depth=1)
    path = tmp_path_factory.mktemp("model") / "tiny.keras"
    return save_model(TrainedModel(network, make_trained().card), path)


def run(*arguments):
    command = [sys.executable, "-c", ENTRIES, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def listed(command):
    return "".join(run(command, "--help").replace("│", " ").split())  # lines wrap anywhere


def test_help_lists_them():
    text = listed("predict")
    assert "zarr,numpy" in text and "parquet,count" in text
    text = listed("objects")
    assert "parquet,count" in text and "[default:labels,csv,geojson,rois]" in text


def test_predictions_and_objects_write_them(model, tmp_path):
    image = np.random.default_rng(0).integers(0, 255, (40, 50), np.uint8)
    Image.fromarray(image).save(tmp_path / "a.png")
    out = tmp_path / "out"
    run(
        *("predict", model, tmp_path / "a.png", "--output", out, "--no-overlays"),
        *("--format", "numpy", "--objects", "count", "--probabilities"),
    )
    mask = np.load(out / "a_mask.npy")
    assert mask.shape == (40, 50) and set(np.unique(mask)) <= {0, 255}
    names = {path.name for path in out.glob("[!.]*")}
    assert names == {"a_mask.npy", "a_probabilities.tif", "a_count.txt"}
    Image.fromarray(mask).save(tmp_path / "a_mask.png")
    run("objects", tmp_path / "a_mask.png", "--output", tmp_path / "o", "--format", "count")
    counts = [folder / "a_count.txt" for folder in (out, tmp_path / "o")]
    assert len({path.read_text() for path in counts}) == 1
