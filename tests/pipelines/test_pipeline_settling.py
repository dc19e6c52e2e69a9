"""What a configuration leaves open is settled from the files, or asked for."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from keras_unet.data import make_cells
from keras_unet.errors import ConfigError, DataError
from pipelines.config import load_pipeline_config
from pipelines.settling import LOOKED_AT, settled, some_pairs


def write(folder, count, change=lambda labels: labels, channels=1):
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True)
    for n in range(count):
        image, labels = make_cells(48, seed=n, diameter=16)
        image = np.stack([image] * channels, -1) if channels > 1 else image
        Image.fromarray(image).save(folder / "images" / f"{n:03d}.png")
        Image.fromarray(change(labels).astype(np.uint16)).save(folder / "labels" / f"{n:03d}.png")
    return folder


def settle(folder, *more, said=None):
    config = load_pipeline_config(None, more, data={"images": str(folder)})
    return settled(config, print if said is None else said.append)


def test_a_mask_is_settled_to_its_stored_values(tmp_path):
    folder = write(tmp_path, 3, lambda labels: (labels > 0) * 255, channels=3)
    said = []
    data = settle(folder, said=said).data
    assert (data.label_kind, data.label_values, data.num_classes) == ("semantic", (0, 255), None)
    assert (data.channels, data.dtypes) == (3, ("uint8",))
    assert "[0, 255]" in said[0] and "3 of the images" in said[0]


def test_class_names_of_a_file_beside_the_data(tmp_path):
    folder, said = write(tmp_path, 3, lambda labels: labels > 0), []
    assert settle(folder).data.class_names is None
    (folder / "classes.txt").write_text("background\nnucleus\n")
    assert settle(folder, said=said).data.class_names == ("background", "nucleus")
    assert f"(from {folder / 'classes.txt'})" in said[0]
    assert settle(folder, 'data.class_names=["a","b"]').data.class_names == ("a", "b")
    (folder / "classes.txt").write_text("nucleus\n")
    with pytest.raises(DataError, match=r"classes\.txt: names 1 class "):
        settle(folder)


def test_settled_twice_is_the_same(tmp_path):
    once = settle(write(tmp_path, 3, lambda labels: labels > 0))
    said = []
    assert settled(once, said.append) == once and not said


def test_objects_are_asked_for_not_guessed(tmp_path):
    folder = write(tmp_path, 3)
    with pytest.raises(DataError, match=r'data\.label_kind = "instances"'):
        settle(folder)
    data = settle(folder, "data.label_kind=instances").data
    assert data.label_kind == "instances" and data.label_values is None


def test_stated_classes_that_no_image_has(tmp_path):
    folder = write(tmp_path, 2, lambda labels: labels > 0)
    assert settle(folder, "data.num_classes=3").data.label_values == (0, 1, 2)


def test_a_bad_file_among_good_ones_is_left_to_the_dead_letters(tmp_path):
    folder = write(tmp_path, 3, lambda labels: labels > 0)
    (folder / "images" / "001.png").write_bytes(b"nothing")
    assert settle(folder).data.label_values == (0, 1)


def test_only_some_of_many_are_looked_at(tmp_path):
    folder = write(tmp_path, LOOKED_AT + 3, lambda labels: labels > 0)
    pairs = some_pairs(load_pipeline_config(None, data={"images": str(folder)}).data)
    assert len(pairs) <= LOOKED_AT
    assert {pair.name for pair in pairs} >= {"000", "034"}


def test_a_manifest(tmp_path):
    folder = write(tmp_path, 2, lambda labels: labels > 0)
    lines = [f"images/{n:03d}.png,labels/{n:03d}.png,mouse{n}" for n in range(2)]
    (folder / "cells.csv").write_text("\n".join(["image,label,group", *lines]) + "\n")
    assert settle(folder / "cells.csv").data.label_values == (0, 1)


def test_nothing_there(tmp_path):
    with pytest.raises(DataError, match="images/"):
        settle(tmp_path)


def test_labels_of_other_names_are_told(tmp_path):
    folder = write(tmp_path, 2)
    for path in (folder / "labels").iterdir():
        path.rename(path.with_stem(f"{path.stem}_mask"))
    with pytest.raises(DataError, match="found no image with labels") as error:
        settle(folder)
    assert "000.png: has no labels" in str(error.value) and "000_mask.png" in str(error.value)


def test_images_that_are_all_damaged_are_told(tmp_path):
    folder = write(tmp_path, 2, lambda labels: labels > 0)
    for path in (folder / "images").iterdir():
        path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(DataError, match=r"images/000\.png: truncated or damaged"):
        settle(folder)


def test_what_is_settled_needs_no_look(tmp_path):
    """As for a bucket that is mounted where the pipeline will run, and not here."""
    given = ("data.label_values=[0,255]", "data.channels=1", 'data.dtypes=["uint8"]')
    data = settle(tmp_path / "not there", *given).data
    assert data.label_values == (0, 255)
    with pytest.raises(ConfigError, match=r"data\.images: expected a folder"):
        settled(load_pipeline_config(None, ["runner=vertex"]), print)


def test_made_up_cells_stay_as_they_are(tmp_path, monkeypatch):
    monkeypatch.setattr("pipelines.settling.SYNTHETIC", {"train": 3, "val": 0, "size": 64})
    config = load_pipeline_config(None, [f"root={tmp_path}", "train.steps=5"])
    first = settled(config, print)
    assert first.data.label_kind == "instances" and first.data.images.startswith(str(tmp_path))
    assert first.train["steps"] == 5 and "minutes" not in first.train
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.png")}
    assert len(files) == 6 and settled(config, print) == first
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.png")} == files


@pytest.mark.tfx
def test_the_newest_span(tmp_path):
    pytest.importorskip("tfx")
    for span, top in ((1, 1), (2, 255)):
        write(tmp_path / f"week-{span}", 2, lambda labels, top=top: (labels > 0) * top)
    pattern = tmp_path / "week-{SPAN}"
    assert settle(pattern).data.label_values == (0, 255)
    assert settle(pattern, "data.span=1").data.label_values == (0, 1)
    with pytest.raises(DataError, match="SPAN"):
        settle(tmp_path / "month-{SPAN}")
