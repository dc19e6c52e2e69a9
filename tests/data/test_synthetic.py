"""The synthetic set: deterministic, touching cells, and hard for a threshold."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage
from skimage.filters import threshold_otsu

from keras_unet.data.synthetic import make_cells, write_dataset
from keras_unet.errors import ConfigError


def _iou(a, b):
    return np.count_nonzero(a & b) / np.count_nonzero(a | b)


def _touching(labels):
    """Pairs of cells that share a border."""
    pairs = set()
    for a, b in ((labels[:-1], labels[1:]), (labels[:, :-1], labels[:, 1:])):
        at = (a != b) & (a > 0) & (b > 0)
        pairs |= {tuple(sorted(p)) for p in zip(a[at].tolist(), b[at].tolist(), strict=True)}
    return pairs


def test_shapes_and_dtypes():
    image, labels = make_cells((96, 130), seed=1)
    assert image.shape == labels.shape == (96, 130)
    assert image.dtype == np.uint8 and labels.dtype == np.int32


def test_same_seed_same_bytes_other_seed_other_picture():
    first, second, other = (make_cells(128, seed=s) for s in (5, 5, 6))
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    assert not np.array_equal(first[0], other[0]) and not np.array_equal(first[1], other[1])


@pytest.mark.parametrize("seed", range(4))
def test_each_cell_is_one_region_and_numbers_have_no_gaps(seed):
    _, labels = make_cells((150, 200), seed=seed, diameter=20)
    assert np.array_equal(np.unique(labels), np.arange(labels.max() + 1))
    for number, box in enumerate(ndimage.find_objects(labels), start=1):
        assert ndimage.label(labels[box] == number)[1] == 1, f"cell {number} is in pieces"


@pytest.mark.parametrize("seed", range(4))
def test_cells_touch_with_a_dark_membrane_between(seed):
    image, labels = make_cells(256, seed=seed, noise=0.0, light=0.0)
    assert len(_touching(labels)) > 20
    largest = ndimage.maximum_filter(labels, 3)
    smallest = ndimage.minimum_filter(np.where(labels > 0, labels, 10**6), 3)
    seam = (labels > 0) & (largest != smallest) & (ndimage.minimum_filter(labels, 3) > 0)
    deep = ndimage.distance_transform_edt((labels > 0) & (largest == smallest)) > 4
    assert image[seam].mean() < 0.7 * image[deep].mean()


@pytest.mark.parametrize("seed", range(4))
def test_a_threshold_does_badly(seed):
    image, labels = make_cells(256, seed=seed)
    cells = labels > 0
    assert 0.3 < cells.mean() < 0.8
    assert _iou(image > threshold_otsu(image), cells) < 0.8
    assert max(_iou(image > t, cells) for t in range(0, 255, 3)) < 0.85


def test_light_is_uneven_and_can_be_switched_off():
    def tilt(light):
        means = []
        for seed in range(3):
            image, _ = make_cells(192, seed=seed, light=light, noise=0.0, coverage=1.0)
            blocks = image.reshape(3, 64, 3, 64).mean((1, 3))
            means.append(blocks.max() / blocks.min())
        return np.mean(means)

    assert tilt(1.0) > 1.5 * tilt(0.0)


def test_small_pictures_and_few_cells():
    for size in ((16, 16), (16, 300), (31, 17)):
        image, labels = make_cells(size, seed=0, coverage=0.01)
        assert image.shape == labels.shape == size
    assert make_cells(64, seed=3, coverage=0.01, diameter=30)[1].max() >= 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 8}, "8x8; expected at least 16x16"),
        ({"diameter": 2}, "diameter is 2; expected 8"),
        ({"coverage": 1.5}, "coverage is 1.5"),
        ({"noise": float("nan")}, "noise is nan"),
    ],
)
def test_arguments_out_of_range(arguments, message):
    with pytest.raises(ConfigError, match=message):
        make_cells(**{"size": 64, "seed": 0, **arguments})


def test_dataset_is_written_and_written_again(tmp_path):
    folder = write_dataset(tmp_path / "set", train=3, val=1, size=48, seed=9)
    files = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*.png"))
    assert files == sorted(
        f"{split}/{kind}/cells_{n:03d}.png"
        for split, count in (("train", 3), ("val", 1))
        for kind in ("images", "labels")
        for n in range(count)
    )
    image = np.asarray(Image.open(folder / "train/images/cells_001.png"))
    labels = np.asarray(Image.open(folder / "train/labels/cells_001.png"))
    assert image.dtype == np.uint8 and labels.dtype == np.uint16 and labels.max() > 0
    validation = np.asarray(Image.open(folder / "val/images/cells_000.png"))
    assert not np.array_equal(
        validation, np.asarray(Image.open(folder / "train/images/cells_000.png"))
    )

    (folder / "train/images/mine.png").write_bytes(b"")
    write_dataset(folder, train=2, val=0, size=48, seed=9)
    assert np.array_equal(image, np.asarray(Image.open(folder / "train/images/cells_001.png")))
    assert not (folder / "train/images/cells_002.png").exists()
    assert (folder / "train/images/mine.png").exists(), "only its own files may be removed"
