"""Which image goes with which labels."""

from __future__ import annotations

import os
import sys
import unicodedata

import numpy as np
import pytest
import tifffile
from PIL import Image

from keras_unet.data.pairs import Pair, find_pairs, natural_key
from keras_unet.errors import DataError


def _touch(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.new("L", (4, 3)).save(folder / name)
    return folder


def test_folder_with_images_and_labels_in_natural_order(tmp_path):
    _touch(tmp_path / "images", "c10.png", "c2.png", "C1.jpg", "x.ome.tif")
    _touch(tmp_path / "labels", "c10.tif", "c2.png", "C1.PNG", "x.tif")
    found = find_pairs(tmp_path)
    assert [pair.name for pair in found] == ["C1", "c2", "c10", "x"]
    assert found[2] == Pair("c10", tmp_path / "images/c10.png", tmp_path / "labels/c10.tif")
    assert len(found) == 4 and not found.problems and not found.notes


def test_two_folders_anywhere(tmp_path):
    images, labels = _touch(tmp_path / "raw", "a.png"), _touch(tmp_path / "truth", "a.png")
    assert [p.label for p in find_pairs(images, labels)] == [labels / "a.png"]
    assert [p.label for p in find_pairs(str(images))] == [None]


def test_images_alone(tmp_path):
    _touch(tmp_path / "images", "a.png")
    assert find_pairs(tmp_path)[0] == Pair("a", tmp_path / "images/a.png")
    assert find_pairs(tmp_path / "images/a.png")[0] == Pair("a", tmp_path / "images/a.png")


def test_missing_partners_and_doubled_names_are_collected(tmp_path):
    _touch(tmp_path / "images", "a.png", "a.tif", "b.png", "c.png")
    _touch(tmp_path / "labels", "a.png", "c.png", "d.png")
    found = find_pairs(tmp_path)
    assert [p.name for p in found] == ["a", "c"]
    text = "\n".join(map(str, found.problems))
    assert "images/a.tif: has the same name as a.png; expected each name once" in text
    assert "images/b.png: has no labels; expected" in text and "labels/b.png or .tif" in text
    assert "labels/d.png: has no image; expected an image" in text
    assert len(found.problems) == 3


def test_names_that_never_match_are_shown(tmp_path):
    _touch(tmp_path / "images", "a.png")
    _touch(tmp_path / "labels", "a_mask.png")
    assert "names found there: a_mask.png" in str(find_pairs(tmp_path).problems[0])


@pytest.mark.skipif(sys.platform == "darwin", reason="no file has such a name there")
def test_a_name_that_is_not_utf_8_is_told(tmp_path):
    """As an archive made on Windows leaves "20µm": in Latin-1."""
    for folder in (tmp_path / "images", tmp_path / "labels"):
        _touch(folder, "a.png")
        name = os.fsdecode(b"20\xb5m.png")
        (folder / name).write_bytes((folder / "a.png").read_bytes())
        (folder / os.fsdecode(b"\xb5.txt")).touch()
    found = find_pairs(tmp_path)
    assert [pair.name for pair in found] == ["a"]
    assert [str(p).rpartition("/")[2] for p in found.problems] == [
        "20\\xb5m.png: has a name that is not UTF-8; expected another name"
    ] * 2
    assert "\n".join([*map(str, found.problems), *found.notes]).encode()


def test_other_entries_are_left_out_and_counted(tmp_path):
    folder = _touch(tmp_path / "images", "a.png", ".b.png")
    (folder / "notes.txt").write_text("x")
    (folder / "sub.png").mkdir()
    found = find_pairs(tmp_path)
    assert [p.name for p in found] == ["a"]
    assert found.notes == (f"{folder}: 3 other entries left out: .b.png, notes.txt, sub.png",)


def test_stacks_pair_page_by_page(tmp_path):
    stack = np.zeros((12, 5, 6), np.uint8)
    tifffile.imwrite(tmp_path / "em.tif", stack)
    tifffile.imwrite(tmp_path / "truth.tif", stack)
    found = find_pairs(tmp_path / "em.tif", tmp_path / "truth.tif")
    assert [p.name for p in found][:2] == ["em:000", "em:001"] and len(found) == 12
    assert found[7] == Pair("em:007", tmp_path / "em.tif", tmp_path / "truth.tif", 7, 7)
    assert find_pairs(tmp_path / "em.tif")[3] == Pair("em:003", tmp_path / "em.tif", image_page=3)


def test_unequal_page_counts(tmp_path):
    tifffile.imwrite(tmp_path / "em.tif", np.zeros((5, 5, 6), np.uint8), metadata=None)
    tifffile.imwrite(tmp_path / "truth.tif", np.zeros((6, 5, 6), np.uint8), metadata=None)
    found = find_pairs(tmp_path / "em.tif", tmp_path / "truth.tif")
    assert not len(found)
    assert "truth.tif: has 6 pages; expected 5, as in" in str(found.problems[0])


def test_stacks_in_folders_and_broken_files_stay_for_the_check(tmp_path):
    for kind in ("images", "labels"):
        (tmp_path / kind).mkdir()
        tifffile.imwrite(tmp_path / kind / "s.tif", np.zeros((2, 5, 6), np.uint8), metadata=None)
    _touch(tmp_path / "labels", "bad.png")
    (tmp_path / "images/bad.tif").write_bytes(b"II*\0")
    assert [p.name for p in find_pairs(tmp_path)] == ["bad", "s:000", "s:001"]


def test_paths_that_cannot_be_meant(tmp_path):
    _touch(tmp_path / "images", "a.png")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/a.czi").write_bytes(b"x")
    with pytest.raises(DataError, match="nowhere: does not exist; expected an image file"):
        find_pairs(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"is a folder and .*a\.png is a file; expected two"):
        find_pairs(tmp_path / "images", tmp_path / "images/a.png")
    with pytest.raises(DataError, match=r"holds no image; expected \.png.*left out: a\.czi"):
        find_pairs(tmp_path / "empty")


def test_natural_key():
    names = ["b1", "a10", "a9", "a09b", "A1"]
    assert sorted(names, key=natural_key) == ["A1", "a09b", "a9", "a10", "b1"]


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC"), ("NFD", "NFD")])
def test_accents_are_composed_or_apart(tmp_path, forms):
    names = ["Zürich é0", "Å_1", "ṩ가2"]
    for kind, form in zip(("images", "labels"), forms, strict=True):
        _touch(tmp_path / kind, *(unicodedata.normalize(form, f"{n}.png") for n in names))
    found = find_pairs(tmp_path)
    assert not found.problems and {pair.name for pair in found} == set(names)
    assert all(pair.label and pair.label.exists() for pair in found)


def test_two_names_that_differ_in_the_form_of_accents_only(tmp_path):
    _touch(tmp_path, unicodedata.normalize("NFC", "é.png"), unicodedata.normalize("NFD", "é.png"))
    if len(list(tmp_path.iterdir())) < 2:
        pytest.skip("the file system takes both names for one")
    (problem,) = find_pairs(tmp_path).problems
    assert "(one has its accents composed, the other apart)" in str(problem)


def test_images_that_are_left_out_are_named_first(tmp_path):
    folder = _touch(tmp_path / "images", "a.png")
    for name in ("z.bmp", "y.webp", "x.CZI", *(f"{k}.txt" for k in range(9))):
        (folder / name).write_bytes(b"x")
    _touch(folder / "more", "b.png", "c.TIF")
    (tmp_path / "beside.jpg").write_bytes(b"x")
    beside, inside = find_pairs(tmp_path).notes
    assert beside.startswith(f"{tmp_path}: 1 other entry left out: beside.jpg")
    assert "13 other entries left out: x.CZI, y.webp, z.bmp, more (a folder, 2 images ins" in inside
    assert inside.endswith("… (13 in all); images are .png, .jpg, .jpeg, .tif, .tiff")
