"""Masks that viewers show in colours, and outlines of objects whose neighbours differ."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from scipy.spatial import cKDTree

from keras_unet.data import read_labels
from keras_unet.pictures import (
    MARKS,
    OBJECT_COLORS,
    class_color,
    mask_palette,
    object_colors,
    object_entries,
    object_overlay,
    save_mask,
    to_rgb,
)

NAMES = ("background", "myelin", "axon")


def cells(size=200, count=120, radius=None, seed=0):
    """Cells around random points: all touch, or discs that touch some others; int32 [H, W]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size]
    places = np.stack([y.ravel(), x.ravel()], 1)
    away, nearest = cKDTree(rng.random((count, 2)) * size).query(places)
    labels = (nearest + 1).astype(np.int32)
    labels[away > (radius or np.inf)] = 0
    return labels.reshape(size, size)


def touching(labels):
    """Pairs of numbers that share an edge."""
    found = set()
    for a, b in ((labels[1:], labels[:-1]), (labels[:, 1:], labels[:, :-1])):
        at = (a != b) & (a > 0) & (b > 0)
        found |= set(zip(a[at].tolist(), b[at].tolist(), strict=True))
    return found


@pytest.mark.parametrize(
    ("values", "colours"),
    [
        ((0, 1, 2), True),
        ((0, 127, 255), True),
        ((3, 0), True),
        ((0, 255), False),
        ((255, 0), False),
    ],
)
def test_a_mask_keeps_its_values_and_is_shown_in_its_classes_colours(tmp_path, values, colours):
    """By Pillow and by this package; a viewer converts to RGB."""
    number = np.random.default_rng(0).integers(0, len(values), (30, 40))
    mask = np.array(values, np.uint8)[number]
    save_mask(tmp_path / "a.png", mask, dict(zip(values, NAMES, strict=False)))
    with Image.open(tmp_path / "a.png") as file:
        assert file.mode == ("P" if colours else "L")
        assert np.array_equal(np.asarray(file), mask) and np.asarray(file).dtype == np.uint8
        shown = np.asarray(file.convert("RGB"))
        lines = file.info["Classes"].splitlines()
    assert np.array_equal(read_labels(tmp_path / "a.png"), mask)
    black_and_white = mask[..., None].repeat(3, -1)
    wanted = np.where(number[..., None] > 0, class_color(number), 0)
    assert np.array_equal(shown, wanted if colours else black_and_white)
    for line, value, name in zip(lines, values, NAMES, strict=False):
        color = f" #{shown[mask == value][0].tobytes().hex()}" if colours else ""
        assert line == f"{value} {name}{color}"
    before = (tmp_path / "a.png").read_bytes()
    save_mask(tmp_path / "a.png", mask, dict(zip(values, NAMES, strict=False)))
    assert (tmp_path / "a.png").read_bytes() == before


def test_a_mask_whose_classes_nobody_knows(tmp_path):
    for top, mode in ((2, "P"), (254, "P"), (255, "L"), (300, "I;16")):
        mask = np.array([[0, top]], np.uint16 if top > 255 else np.uint8)
        save_mask(tmp_path / "a.png", mask)
        with Image.open(tmp_path / "a.png") as file:
            assert file.mode == mode and np.array_equal(np.asarray(file), mask)
            assert "Classes" not in file.info
    assert np.array_equal(mask_palette(), mask_palette((0, 1, 2)))  # with and without names alike


def test_values_beyond_a_palette_stay_grey_and_keep_their_names(tmp_path):
    mask = np.array([[0, 1000], [7, 0]], np.uint16)
    save_mask(tmp_path / "a.png", mask, {0: "nothing", 7: "Ω\ncell", 1000: "vessel"})
    with Image.open(tmp_path / "a.png") as file:
        assert np.array_equal(np.asarray(file), mask)
        assert file.info["Classes"] == "0 nothing\n7 Ω cell\n1000 vessel"


@pytest.fixture
def two_masks(tmp_path):
    """A mask of three classes, one of two, and their files."""
    mask = np.random.default_rng(0).integers(0, 3, (30, 40)).astype(np.uint8)
    masks = {"three": mask, "two": mask // 2 * np.uint8(255)}
    save_mask(tmp_path / "three.png", masks["three"], dict(enumerate(NAMES)))
    save_mask(tmp_path / "two.png", masks["two"], {0: "background", 255: "cell"})
    return masks, {name: tmp_path / f"{name}.png" for name in masks}


def test_imageio_gives_a_palettes_numbers_if_asked_and_black_and_white_anyway(two_masks):
    imageio = pytest.importorskip("imageio.v3")
    masks, files = two_masks
    assert np.array_equal(imageio.imread(files["three"], mode="P"), masks["three"])
    assert np.array_equal(imageio.imread(files["three"]), mask_palette()[masks["three"]])
    assert np.array_equal(imageio.imread(files["two"]), masks["two"])


def test_opencv_gives_a_palettes_colours_and_black_and_white_as_it_is(two_masks):
    cv2 = pytest.importorskip("cv2")
    masks, files = two_masks
    shown = cv2.imread(str(files["three"]), cv2.IMREAD_UNCHANGED)[..., ::-1]
    assert np.array_equal(shown, mask_palette()[masks["three"]])
    grey = cv2.imread(str(files["two"]), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(grey, masks["two"])


def test_no_colour_of_an_object_marks_an_error():
    used = {tuple(color) for color in OBJECT_COLORS.tolist()}
    assert len(used) == len(OBJECT_COLORS) >= 6  # as many as any map may need of this colouring
    assert not used & {mark.color for mark in MARKS}


@pytest.mark.parametrize("radius", [None, 12])
def test_touching_objects_differ_in_colour(radius):
    for seed in range(4):
        labels = cells(radius=radius, seed=seed)
        colors = object_colors(labels)
        pairs = touching(labels)
        assert len(pairs) > 100
        assert all(colors[a] != colors[b] for a, b in pairs)
        assert [*colors] == np.unique(labels[labels > 0]).tolist()
        assert object_colors(labels) == colors


def test_an_object_amid_many_and_neighbours_without_contact():
    y, x = np.mgrid[:101, :101] - 50
    labels = ((np.arctan2(y, x) + np.pi) * 30 / (2 * np.pi)).astype(np.int32) + 1
    labels[np.hypot(y, x) < 20] = 99  # touches all others, whose numbers are smaller
    colors = object_colors(labels)
    assert len({colors[n] for n in colors if n != 99} - {colors[99]}) >= 2
    assert all(colors[a] != colors[b] for a, b in touching(labels))
    many = len(OBJECT_COLORS)
    strips = np.zeros((20, 30), np.int32)
    strips[:, :10], strips[:, 12:] = 1, 1 + many  # of one colour in turn, two pixels apart
    colors = object_colors(strips)
    assert colors[1] != colors[1 + many]
    assert object_colors(strips * (strips == 1)) == {1: tuple(OBJECT_COLORS[0].tolist())}
    assert object_colors(strips * 0) == {}


@pytest.mark.parametrize(("size", "width"), [(120, 1), (1100, 2)])
def test_outlines_lie_on_the_objects_alone(size, width):
    labels = np.zeros((size, size), np.int32)
    labels[20:60, 20:50], labels[20:60, 50:90] = 5, 1 << 30  # numbers of any size
    image = np.random.default_rng(0).integers(0, 255, (size, size), dtype=np.uint8)
    drawn, plain = object_overlay(image, labels), to_rgb(image)
    assert drawn.dtype == np.uint8 and drawn.shape == (size, size, 3)
    line = np.zeros(labels.shape, bool)
    for left, right in ((20, 50), (50, 90)):
        line[20:60, left:right] = True
        line[20 + width : 60 - width, left + width : right - width] = False
    colors = object_colors(labels)
    for number, color in colors.items():
        assert (drawn[line & (labels == number)] == color).all()
    assert np.array_equal(drawn[~line], plain[~line])  # background and insides
    assert len(set(colors.values())) == 2
    assert np.array_equal(object_overlay(image, labels * 0), plain)


def test_the_legend_of_objects_counts_them():
    assert object_entries(1)[0].text.startswith("1 object,")
    assert object_entries(1234)[0].text.startswith("1,234 objects")
    assert all(entry.color is None for entry in object_entries(3))
