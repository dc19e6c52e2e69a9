"""Models by name: packed small, listed without Keras, found wherever a model is taken."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_unet
from keras_unet import run_layout
from keras_unet.errors import ConfigError, DataError
from keras_unet.inference import FilePredictor, predict
from keras_unet.inference.ensemble import members
from keras_unet.models import Decoding, Release, describe_model, load_model, pack, save_model
from keras_unet.models.pretrained import catalogue
from keras_unet.serving.card import CardFields
from keras_unet.settings import tomllib

ROOT = Path(keras_unet.__file__).parent

RELEASE = Release(
    purpose="bright discs on dark ground",
    not_for="anything else",
    data="made-up discs",
    data_licence="CC0-1.0",
    licence="Apache-2.0",
    command="keras-unet train discs --instances",
    scores={"discs/val": {"object F1": 0.5}},
)


@pytest.fixture
def run(trained, tmp_path):
    """A run folder, whose card has what a training on this machine leaves."""
    config = {"data": {"images": "/data/of/mine/discs"}, "output": "runs", "steps": 3}
    card = trained.card.model_copy(update={"config": config, "format": 1})
    folder = tmp_path / "run"
    save_model(trained._replace(card=card), folder / run_layout.BEST)
    return folder


@pytest.fixture
def shelf(run, tmp_path, monkeypatch):
    """A catalogue that holds the model `discs` alone."""
    folder = tmp_path / "shelf"
    monkeypatch.setattr(catalogue, "FOLDER", folder)
    pack(run, "discs", RELEASE, folder=folder, diameter=9.0)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return folder


def test_a_packed_model_answers_nearly_as_before(run, shelf):
    whole, packed = load_model(run), load_model("discs")
    image = np.random.default_rng(0).integers(0, 255, (40, 50), np.uint8)
    given, kept = predict(packed, image), predict(whole, image)
    np.testing.assert_allclose(given, kept, atol=5e-3)
    assert not np.array_equal(given, kept)  # it is rounded
    for ours, theirs in zip(packed.network.weights, whole.network.weights, strict=True):
        assert ours.dtype == "float32"
        if len(ours.shape) < 2:
            np.testing.assert_array_equal(ours, theirs)
        else:
            np.testing.assert_array_equal(ours, np.float32(np.float16(theirs)))
    file = shelf / "discs.keras"
    assert file.stat().st_size < 0.6 * (run / run_layout.BEST).stat().st_size
    plain = keras.saving.load_model(file, safe_mode=True)
    np.testing.assert_array_equal(plain.weights[0], packed.network.weights[0])
    assert {layer.compute_dtype for layer in plain.layers} == {"float32"}


def test_the_same_model_gives_the_same_bytes(run, shelf, tmp_path):
    again = pack(run, "discs", RELEASE, folder=tmp_path, diameter=9.0)
    assert again.read_bytes() == (shelf / "discs.keras").read_bytes()
    with zipfile.ZipFile(again) as archive:
        assert {member.date_time for member in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_what_its_card_says(run, shelf, tmp_path):
    card = load_model("discs").card
    assert (card.format, card.name, card.diameter, card.release) == (2, "discs", 9.0, RELEASE)
    assert card.config == {"data": {"images": "mine/discs"}, "output": "runs", "steps": 3}
    assert card.metrics == load_model(run).card.metrics
    decoding = Decoding(min_size=7)
    other = load_model(pack(run, "x", RELEASE, folder=tmp_path, objects=decoding)).card
    assert (other.objects, other.diameter) == (decoding, None)
    text = describe_model("discs").to_text()
    for part in ("bright discs on dark ground", "Apache-2.0", "CC0-1.0", "object F1 0.5"):
        assert part in text
    with pytest.raises(ConfigError, match=r"name is 'a/b'; expected a name without folder"):
        pack(run, "a/b", RELEASE, folder=tmp_path)
    script = save_model(keras_unet.build_unet(filters=2, depth=1), tmp_path / "script.keras")
    with pytest.raises(ConfigError, match="not trained by this package"):
        pack(script, "script", RELEASE, folder=tmp_path)


def test_a_licence_is_not_left_behind(shelf):
    card = load_model("discs").card
    fields = CardFields(licence="MIT").completed(card)
    assert (fields.licence, fields.data_licence) == ("MIT", "CC0-1.0")
    assert fields.description == "For bright discs on dark ground. Not for anything else."
    assert CardFields().completed(card.model_copy(update={"release": None})) == CardFields()


def test_a_name_is_taken_wherever_a_model_is(shelf, tmp_path):
    image = np.random.default_rng(0).integers(0, 255, (40, 50), np.uint8)
    expected = predict(load_model("discs"), image)
    np.testing.assert_array_equal(keras_unet.predict("discs", image), expected)
    np.testing.assert_array_equal(keras_unet.predict(Path("discs"), image), expected)
    assert [one.card.name for one in members(["discs", shelf / "discs.keras"])] == ["discs"] * 2
    from PIL import Image

    Image.fromarray(image).save("image.png")
    done = FilePredictor("discs", overlays=False)("image.png", "masks")
    assert len(done.written) == 1
    assert FilePredictor("discs", overlays=False)("image.png", "masks").written == ()
    assert describe_model("discs").bytes == (shelf / "discs.keras").stat().st_size


def test_what_lies_on_the_disk_wins(run, shelf, trained):
    changed = trained._replace(card=trained.card.model_copy(update={"name": "mine"}))
    save_model(changed, Path("discs", run_layout.BEST))
    assert load_model("discs").card.name == "mine"
    Path("discs", run_layout.BEST).unlink()
    with pytest.raises(DataError, match="the folder discs hides the pretrained model"):
        load_model("discs")


def test_an_unknown_name_is_answered_with_the_names(shelf):
    message = r"disks: no trained model here.*, or a pretrained model: discs; did you mean discs\?"
    for take in (load_model, describe_model, lambda name: FilePredictor(name).load()):
        with pytest.raises(DataError, match=message):
            take("disks")
    with pytest.raises(DataError) as caught:
        load_model("runs/disks")
    assert "pretrained" not in str(caught.value)
    assert catalogue.pretrained_file("discs.keras") is None


def test_the_server_says_how_a_name_is_served(shelf):
    from keras_unet.serving.server.model_files import discover

    with pytest.raises(ConfigError, match="first: keras-unet export discs saved_models/discs"):
        discover(Path("discs"))


def test_they_are_listed_without_keras(shelf):
    code = f"""
import sys
from pathlib import Path
from keras_unet.models.pretrained import catalogue
catalogue.FOLDER = Path({str(shelf)!r})
from keras_unet.cli.models import models
models(as_json="--json" in sys.argv)
assert not {{"keras", "tensorflow"}} & set(sys.modules)
"""

    def printed(*options):
        command = [sys.executable, "-c", code, *options]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return done.stdout

    (found,) = json.loads(printed("--json"))
    assert (found["name"], found["card"]["diameter"]) == ("discs", 9.0)
    assert found["bytes"] == (shelf / "discs.keras").stat().st_size
    assert Release.model_validate(found["card"]["release"]) == RELEASE
    shown = " ".join(printed().split())
    for part in (
        "discs",
        "object F1 0.500",
        "objects 9 px",
        "CC0-1.0",
        "keras-unet predict discs IMAGES",
    ):
        assert part in shown, part


def test_a_wheel_holds_them():
    project = tomllib.loads((ROOT.parent / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = project["tool"]["setuptools"]["package-data"]["keras_unet"]
    place = (catalogue.FOLDER / "nuclei.keras").relative_to(ROOT)
    assert any(place.match(pattern) for pattern in patterns)


def test_a_file_without_a_release_is_named(shelf, trained):
    save_model(trained, shelf / "other.keras")
    with pytest.raises(DataError, match=r"other\.keras: its card has no release"):
        catalogue.pretrained_models()
