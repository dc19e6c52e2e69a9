"""`keras-unet augment` writes a picture, and says what is wrong with its arguments."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from keras_unet.augment.picture import draw_samples
from keras_unet.augment.settings import preset_settings
from keras_unet.cli.augment import augment
from keras_unet.errors import ConfigError, DataError


@pytest.fixture
def files(tmp_path):
    rng = np.random.default_rng(0)
    label = np.kron(rng.integers(0, 3, (6, 8)), np.ones((8, 8), int)).astype(np.uint8)
    Image.fromarray(rng.integers(0, 255, (48, 64), dtype=np.uint8)).save(tmp_path / "image.png")
    Image.fromarray(label).save(tmp_path / "label.png")
    return tmp_path


def test_a_grid_of_draws(files):
    out = files / "pictures" / "augment.png"
    augment(files / "image.png", files / "label.png", out=out, rows=1, columns=2)
    assert Image.open(out).size[0] > 500
    augment(files / "image.png", preset="flips", setting=["elastic_sigma=3"], out=out, columns=2)
    assert np.asarray(Image.open(out)).std() > 10


def test_the_name_of_the_picture(files, capsys):
    augment(files / "image.png", out=files / "grid", rows=1, columns=2)
    assert "grid.png." in "".join(capsys.readouterr().out.split())
    assert Image.open(files / "grid.png").size[0] > 500
    with pytest.raises(ConfigError, match=r"grid\.xyz: expected a name that ends in .*\.png"):
        augment(files / "image.png", out=files / "grid.xyz", rows=1, columns=2)


def test_an_option_of_a_preset_is_switched_off(files):
    out = files / "draws.png"
    given = ["rotate=null", "scale=null"]
    augment(files / "image.png", preset="nnunet", setting=given, out=out, rows=1, columns=2)
    assert out.is_file()


def test_the_lattice_follows_the_image():
    # Draw 1 flips left-right: the lattice lines of the columns must lie mirrored.
    figure = draw_samples(np.zeros((40, 80, 1), np.uint8), None, preset_settings(
        "none", flip_horizontal=1.0), rows=1, columns=2, spacing=30)  # fmt: skip
    lines = []
    for axes in figure.axes:
        paths = [path for group in axes.collections for path in group.get_paths()]
        points = np.concatenate([path.vertices for path in paths if len(path.vertices)])
        lines.append(np.unique(points[:, 0].round(3)))
    np.testing.assert_allclose(np.setdiff1d(79 - lines[0], lines[1]), [], atol=0.01)


def test_what_does_not_fit(files):
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(files / "small.png")
    with pytest.raises(DataError, match=r"9×9 labels for an image of 48×64"):
        augment(files / "image.png", files / "small.png", out=files / "a.png")
    with pytest.raises(ConfigError, match="unknown augmentation preset 'strong'"):
        augment(files / "image.png", preset="strong", out=files / "a.png")
    with pytest.raises(ConfigError, match="--set 'blur': expected key=value"):
        augment(files / "image.png", setting=["blur"], out=files / "a.png")
