"""`keras-unet diffusion`: train, kill, resume, sample; what is drawn trains a segmenter."""

from __future__ import annotations

import json
import signal

import numpy as np
import pytest
from PIL import Image

from keras_unet.data.check import load_samples
from keras_unet.data.synthetic import write_dataset
from keras_unet.diffusion import synthesis
from keras_unet.diffusion.config import make_diffusion_config
from keras_unet.diffusion.synthesis import load_diffusion, synthesize
from keras_unet.diffusion.training import condition_classes, train_diffusion
from keras_unet.errors import ConfigError, DataError

SMALL = {
    "tile": 32,
    "batch_size": 2,
    "model": {"filters": (8, 16), "norm_groups": 4, "head_dim": 8},
    "pictures": 1,
    "precision": "float32",
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cells")
    write_dataset(folder, seed=0)
    return folder / "train"


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    output = tmp_path_factory.mktemp("runs")
    tree = {
        **SMALL,
        "data": {"images": data, "label_kind": "instances"},
        "steps": 6,
        "steps_per_epoch": 2,
        "output": output,
        "name": "whole",
    }
    return train_diffusion(tree), tree


def weights(folder):
    return load_diffusion(folder).model.get_weights()


def test_a_run_leaves_model_history_pictures_and_no_checkpoints(run):
    folder, _ = run
    names = {path.name for path in folder.iterdir()}
    assert {"config.toml", "run.json", "history.csv", "curves.png", "model.keras"} <= names
    assert "checkpoints" not in names
    assert [p.name for p in (folder / "samples").iterdir()] == ["step-000006.png"]
    card = load_diffusion(folder).card
    assert card.classes == ("background", "inside", "outline") and card.tile == 32


def test_a_run_that_was_stopped_ends_with_the_same_bits(run, monkeypatch):
    from keras_unet.training import loop

    folder, tree = run
    whole = weights(folder)

    class Stops(loop.StopRequest):
        """SIGTERM at the third look between two steps."""

        looks = 0

        @property
        def number(self):
            Stops.looks += 1
            return signal.SIGTERM if Stops.looks >= 3 else None

        @number.setter
        def number(self, value):
            pass

    with monkeypatch.context() as patch:
        patch.setattr(loop, "StopRequest", Stops)
        with pytest.raises(SystemExit) as end:
            train_diffusion({**tree, "name": "stopped"})
    assert end.value.code == 143
    stopped = folder.parent / "stopped"
    assert list((stopped / "checkpoints").glob("*.npz"))
    train_diffusion(resume=stopped)
    for before, after in zip(whole, weights(stopped), strict=True):
        np.testing.assert_array_equal(before, after)
    history = [(f / "history.csv").read_text() for f in (folder, stopped)]
    assert history[0] == history[1]
    with pytest.raises(ConfigError, match="steps: begun with 6, now 7"):
        train_diffusion({**tree, "name": "stopped", "steps": 7}, resume=stopped)


def test_drawn_images_are_a_data_set_that_says_it_is_synthetic(run, data, tmp_path):
    folder, _ = run
    drawn = synthesize(folder, tmp_path / "drawn", count=5, steps=3, seed=4, batch_size=3)
    note = json.loads((drawn / "provenance.json").read_text())
    assert note["synthetic"] is True and len(note["images"]) == 5
    samples, report = load_samples(drawn, rule=load_diffusion(folder).card.labels.as_rule())
    assert len(samples) == 5 and not report.problems
    assert {s.image.shape for s in samples} == {(32, 32, 1)}
    again = synthesize(folder, tmp_path / "again", count=5, steps=3, seed=4, batch_size=3)
    for path in (drawn / "images").iterdir():
        assert path.read_bytes() == (again / "images" / path.name).read_bytes()
    # whole masks of any size
    labels = data / "labels"
    one = synthesize(folder, tmp_path / "one", labels, count=1, steps=2)
    mask = Image.open(next((one / "labels").iterdir()))
    assert mask.size == Image.open(sorted(labels.iterdir())[0]).size
    assert mask.size == Image.open(next((one / "images").iterdir())).size
    with pytest.raises(ConfigError, match="is there already"):
        synthesize(folder, drawn)


def test_provenance_names_the_files_and_no_two_seeds_share_noise(tmp_path):
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    one = synthesis._Given("0000_a.png", None, np.ones((4, 4), np.int32), "a")
    for dtype, name in ((np.uint8, "0000_a.png"), (np.uint16, "0000_a.tif")):
        assert synthesis._write(tmp_path, one, np.zeros((4, 4, 1), dtype)) == name
        assert (tmp_path / "images" / name).is_file()
    seeds = {synthesis._seed_of(seed, first) for seed in range(20) for first in range(0, 80, 8)}
    assert len(seeds) == 200


def test_an_outline_tells_touching_objects_apart(data):
    samples, _ = load_samples(data, rule=make_rule())
    found = condition_classes(samples[0])
    instances = samples[0].instances
    assert set(np.unique(found)) == {0, 1, 2}
    assert ((found > 0) == (instances > 0)).all()
    right = (instances[:, :-1] != instances[:, 1:]) & (instances[:, :-1] > 0)
    assert (found[:, :-1][right] == 2).all()


def make_rule():
    from keras_unet.data.label_rule import LabelRule

    return LabelRule(kind="instances")


def test_a_folder_for_each_class(tmp_path):
    random = np.random.default_rng(0)
    for name in ("dark", "light"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for k in range(2):
            grey = random.integers(0, 100, (32, 40), np.uint8) + 100 * (name == "light")
            Image.fromarray(grey.astype(np.uint8)).save(tmp_path / "data" / name / f"{k}.png")
    tree = {**SMALL, "condition": "class", "data": {"images": tmp_path / "data"}, "steps": 2}
    folder = train_diffusion({**tree, "steps_per_epoch": 1, "output": tmp_path, "name": "run"})
    drawn = synthesize(folder, tmp_path / "drawn", count=3, steps=2, guidance=2.0)
    assert len(list((drawn / "images").iterdir())) == 3 and not (drawn / "labels").exists()
    with pytest.raises(ConfigError, match="without masks"):
        synthesize(folder, tmp_path / "other", tmp_path, count=1)


def test_bad_settings_and_files_are_named(tmp_path):
    with pytest.raises(ConfigError, match="did you mean batch_size"):
        make_diffusion_config({"data": {"images": "x"}, "batchsize": 3})
    with pytest.raises(ConfigError, match="multiple of 4"):
        make_diffusion_config({"data": {"images": "x"}, "tile": 66})
    with pytest.raises(DataError, match="no diffusion model here"):
        load_diffusion(tmp_path)
    (tmp_path / "model.keras").write_bytes(b"PK")
    with pytest.raises(DataError, match="not a diffusion model"):
        load_diffusion(tmp_path)
    (tmp_path / "a").mkdir()
    with pytest.raises(DataError, match="one for each class"):
        train_diffusion({"data": {"images": tmp_path}, "condition": "class"})
