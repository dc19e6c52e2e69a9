from __future__ import annotations

import csv

import numpy as np
import pytest
import tifffile
from PIL import Image
from scipy import ndimage

from keras_unet.data.images import read_labels
from keras_unet.errors import ConfigError, DataError
from keras_unet.inference.objects.finding import (
    ObjectSettings,
    make_settings,
    parse_names,
    to_instances,
)
from keras_unet.inference.objects.mask_objects import (
    find_masks,
    foreground_pages,
    object_picture,
    objects_from_masks,
)
from keras_unet.inference.objects.measurements import measure
from keras_unet.inference.objects.polygons import outlines
from keras_unet.inference.ownership import WRITTEN, recorded
from keras_unet.pictures import save_png, without_legend


def blobs(seed, size=(60, 70)):
    return ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=size), 2.5) > 0.03


@pytest.fixture
def predicted(tmp_path):
    """Two images and what `predict` writes for them."""
    folder = tmp_path / "predictions"
    for name, seed in (("cell2", 1), ("cell10", 2)):
        mask = blobs(seed)
        save_png(tmp_path / "images" / f"{name}.png", (mask * 90 + seed).astype(np.uint8))
        save_png(folder / f"{name}_mask.png", mask.astype(np.uint8) * 255)
        save_png(folder / f"{name}_overlay.png", np.zeros((60, 70, 3), np.uint8))
        chance = np.where(mask, 0.9, 0.2).astype(np.float32)
        tifffile.imwrite(
            folder / f"{name}_probabilities.tif",
            np.stack([1 - chance, chance]),
            photometric="minisblack",
            ome=True,
            metadata={"axes": "CYX", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5},
        )
    return folder


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_masks_of_a_folder(predicted, tmp_path):
    calls = []
    found = objects_from_masks(
        predicted,
        tmp_path / "out",
        images=tmp_path / "images",
        settings=ObjectSettings(min_size=5),
        pixel_size=0.25,
        progress=lambda done, total: calls.append((done, total)),
    )
    expected = [to_instances(blobs(seed), min_size=5) for seed in (1, 2)]
    count = sum(int(labels.max()) for labels in expected)
    assert calls == [(1, 2), (2, 2)] and (found.images, found.objects) == (2, count)
    assert sorted(path.name for path in (tmp_path / "out").glob("[!.]*")) == sorted(
        path.name for path in found.paths
    )
    across = []
    for name, seed, labels in zip(("cell2", "cell10"), (1, 2), expected, strict=True):
        assert np.array_equal(read_labels(tmp_path / "out" / f"{name}_labels.tif"), labels)
        rows = rows_of(tmp_path / "out" / f"{name}_objects.csv")
        assert {float(row["mean_intensity"]) for row in rows} == {90 + seed}
        across += [float(row["equivalent_diameter_px"]) for row in rows]
        with Image.open(tmp_path / "out" / f"{name}_objects.png") as picture:
            assert picture.height > 60 * 8  # its legend
            assert without_legend(picture).size == (70 * 8, 60 * 8)
    assert found.diameter_px == pytest.approx(np.median(across), rel=1e-5)
    assert found.diameter_um == pytest.approx(np.median(across) / 4, rel=1e-5)
    assert f"{count} objects in 2 images, median diameter" in found.describe()
    lines = rows_of(tmp_path / "out" / "summary.csv")
    assert [line["image"] for line in lines] == ["cell2", "cell10"]
    assert [int(line["objects"]) for line in lines] == [labels.max() for labels in expected]
    assert float(lines[1]["covered"]) == pytest.approx((expected[1] > 0).mean(), rel=1e-5)


def test_probabilities_with_a_threshold(predicted, tmp_path):
    low, high = (
        objects_from_masks(predicted, tmp_path / f"{t}", settings=ObjectSettings(threshold=t))
        for t in (0.5, 0.1)
    )
    assert low.objects == sum(int(to_instances(blobs(seed)).max()) for seed in (1, 2))
    assert high.objects == 2  # everything
    assert low.diameter_um == pytest.approx(low.diameter_px / 2)  # as the file states


@pytest.mark.parametrize("dtype", [np.float32, np.uint8, np.uint16])
@pytest.mark.parametrize("classes", [1, 2, 3])
@pytest.mark.parametrize("channels", [False, True])
def test_foreground_of_any_layout(tmp_path, dtype, classes, channels):
    rng = np.random.default_rng(classes)
    chances = rng.dirichlet(np.ones(max(classes, 2)), (3, 12, 14)).astype(np.float32)
    stored = chances if classes > 1 else chances[..., 1:]
    if dtype != np.float32:
        stored = np.rint(stored * np.iinfo(dtype).max).astype(dtype)
    planes = np.moveaxis(stored, -1, 1)
    path = tmp_path / "a_probabilities.tif"
    if channels:
        tifffile.imwrite(
            path, planes, ome=True, metadata={"axes": "ZCYX"}, photometric="minisblack"
        )
    else:
        pages = planes.reshape(-1, 12, 14)
        tifffile.imwrite(path, pages, photometric="minisblack", metadata=None)
    found = list(foreground_pages(path))
    assert len(found) == 3
    step = 0 if dtype == np.float32 else 1 / np.iinfo(dtype).max
    np.testing.assert_allclose(found, 1 - chances[..., 0], atol=1e-6 + step)


def test_a_stack_gives_one_table(tmp_path):
    masks = np.stack([blobs(3), np.zeros((60, 70), bool), blobs(4)])
    path = tmp_path / "s_mask.tif"
    size = {"axes": "ZYX", "PhysicalSizeX": 2000, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": 2}
    tifffile.imwrite(path, masks.astype(np.uint8), ome=True, metadata=size)
    found = objects_from_masks(path, tmp_path / "out", formats=["labels", "csv"])
    rows = rows_of(tmp_path / "out" / "s_objects.csv")
    assert len(rows) == found.objects and {row["slice"] for row in rows} == {"0", "2"}
    assert float(rows[0]["area_um2"]) == 4 * float(rows[0]["area_px"])
    names = {path.name for path in found.paths}
    assert {f"s_{page:03d}_objects.png" for page in range(3)} < names
    assert [line["objects"] for line in rows_of(tmp_path / "out" / "summary.csv")][1] == "0"


def test_values_are_classes_or_objects(tmp_path):
    mask = np.zeros((20, 20), np.uint8)
    mask[2:6, 2:6], mask[2:6, 6:10], mask[12:18, 12:18] = 1, 2, 2
    save_png(tmp_path / "a.png", mask)
    named = make_settings(names=parse_names(["2=axon"]))
    assert objects_from_masks(tmp_path / "a.png", tmp_path, settings=named).objects == 3
    assert [row["class"] for row in rows_of(tmp_path / "a_objects.csv")] == ["cell", "axon", "axon"]
    assert (
        objects_from_masks(tmp_path / "a.png", tmp_path, settings=ObjectSettings(border=2)).objects
        == 2
    )
    numbers = ObjectSettings(instances=True)
    assert objects_from_masks(tmp_path / "a.png", tmp_path, settings=numbers).objects == 2
    save_png(tmp_path / "b.png", np.arange(100, dtype=np.uint8).reshape(10, 10))
    with pytest.raises(DataError, match=r"b\.png: has 100 different values.*say instances"):
        objects_from_masks(tmp_path / "b.png", tmp_path)
    assert objects_from_masks(tmp_path / "b.png", tmp_path, settings=numbers).objects == 99


def test_what_does_not_fit_is_named(predicted, tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        objects_from_masks(tmp_path / "nowhere", tmp_path / "out")
    (predicted / "cell2_probabilities.tif").unlink()
    (predicted / "cell10_probabilities.tif").unlink()
    with pytest.raises(DataError, match="no file NAME_probabilities"):
        find_masks(predicted, probabilities=True)
    (tmp_path / "images" / "cell2.png").unlink()
    with pytest.raises(DataError, match=r"no image for .*cell2_mask\.png; expected names"):
        objects_from_masks(predicted, tmp_path / "out", images=tmp_path / "images")
    save_png(tmp_path / "images" / "cell2.png", np.zeros((9, 9), np.uint8))
    with pytest.raises(DataError, match=r"cell2_mask\.png: image must be"):
        objects_from_masks(predicted, tmp_path / "out", images=tmp_path / "images")
    assert [path.name for path in (tmp_path / "out").glob(".*")] == [".objects.json"]
    save_png(tmp_path / "m.png", np.zeros((9, 9, 3), np.uint8) + np.uint8([1, 2, 3]))
    with pytest.raises(DataError, match="3 channels that differ"):
        objects_from_masks(tmp_path / "m.png", tmp_path / "out")
    tifffile.imwrite(tmp_path / "p.tif", np.full((5, 5), 7.0, np.float32))
    with pytest.raises(DataError, match="expected probabilities"):
        objects_from_masks(tmp_path / "p.tif", tmp_path, settings=ObjectSettings(threshold=0.5))


@pytest.mark.parametrize(
    "given",
    [
        {"threshold": 2},
        {"connectivity": 5},
        {"split": "border"},
        {"min_size": -1},
        {"border": 2, "split": "distance"},
        {"border": 2, "threshold": 0.5},
        {"size": 3},
    ],
)
def test_bad_settings_are_refused(given):
    with pytest.raises(ConfigError, match="|".join([*given, "exclude", "does not go with"])):
        make_settings(**given)


def test_bad_names_are_refused():
    for text in ("2", "=axon", "x=axon", "2="):
        with pytest.raises(ConfigError, match="2=axon"):
            parse_names([text])


def test_a_picture_shows_outlines_and_numbers():
    labels = np.zeros((40, 50), np.int32)
    labels[5:25, 5:25] = 1
    labels[30:33, 40:43] = 2
    drawn, table = list(outlines(labels)), measure(labels)
    picture = object_picture(labels, drawn, table, enlarged=200)
    assert picture.shape == (160, 200, 3)
    colored = (picture.max(axis=2) != picture.min(axis=2)).astype(int)
    assert colored[20:100, 20].all() and colored[120, 160:172].all()  # both outlines
    assert colored[40:80, 40:80].any()  # the number of the large one
    assert not colored[122:130, 162:170].any()  # none in the small one
    small = object_picture(labels, drawn, table, np.zeros((40, 50, 3), np.uint8), longest=25)
    colored = small.any(axis=2)
    assert small.shape == (20, 25, 3) and colored[3:12, 2].all() and colored[15, 20]
    assert not colored[:, 14:19].any() and not colored[13:, :19].any()


def test_touching_objects_have_outlines_of_two_colours():
    labels = np.zeros((20, 40), np.int32)
    labels[5:15, 5:20], labels[5:15, 20:35] = 1, 7  # of one colour if taken in turn
    picture = object_picture(labels, list(outlines(labels)), measure(labels), enlarged=40)
    assert not np.array_equal(picture[10, 5], picture[10, 35])


def test_a_zarr_mask(tmp_path):
    zarr = pytest.importorskip("zarr")
    mask = blobs(5)
    array = zarr.create_array(tmp_path / "z_mask.zarr", data=mask.astype(np.uint8) * 255)
    assert array.shape == mask.shape
    found = objects_from_masks(tmp_path / "z_mask.zarr", tmp_path / "out", formats=["labels"])
    assert found.objects == to_instances(mask).max()
    assert np.array_equal(read_labels(tmp_path / "out" / "z_labels.tif"), to_instances(mask))


@pytest.mark.parametrize("given", [{"min_size": 2}, {"fill_holes": True}])
def test_what_instances_would_ignore_is_refused(given):
    with pytest.raises(ConfigError, match="instances are taken as they are"):
        make_settings(instances=True, **given)


def test_a_page_and_a_file_that_share_a_picture_are_named(tmp_path):
    tifffile.imwrite(tmp_path / "a_mask.tif", np.eye(6, dtype=np.uint8)[None].repeat(2, 0))
    save_png(tmp_path / "a_001_mask.png", np.eye(6, dtype=np.uint8))
    with pytest.raises(DataError, match=r"a.* would both write a_001_objects\.png"):
        objects_from_masks(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_summary_that_fails_leaves_nothing_half(predicted, tmp_path, monkeypatch):
    def fail(path, table):
        path.write_text("half")
        raise OSError("disk full")

    monkeypatch.setattr("keras_unet.inference.objects.mask_objects.write_csv", fail)
    with pytest.raises(OSError, match="disk full"):
        objects_from_masks(predicted, tmp_path / "out", formats=["labels"])
    assert not [*(tmp_path / "out").glob("*summary*"), *(tmp_path / "out").glob(".summary*")]


def test_zarr_labels_beyond_int32_are_refused(tmp_path):
    zarr = pytest.importorskip("zarr")
    zarr.create_array(tmp_path / "z.zarr", data=np.full((4, 4), 2**31, np.uint32))
    with pytest.raises(DataError, match="labels from 2147483648"):
        objects_from_masks(
            tmp_path / "z.zarr", tmp_path / "out", settings=ObjectSettings(instances=True)
        )


def test_files_of_the_users_are_kept(predicted, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    own = [out / "cell2_labels.tif", out / "summary.csv"]
    for path in own:
        path.write_bytes(b"mine")
    with pytest.raises(DataError) as refused:
        objects_from_masks(predicted, out)
    assert all(f"{path}: was there before" in str(refused.value) for path in own)
    assert {path.name for path in out.iterdir()} == {path.name for path in own}
    found = objects_from_masks(predicted, out, overwrite=True)
    assert own[0].read_bytes() != b"mine"
    assert objects_from_masks(predicted, out).objects == found.objects  # its own it replaces
    own[1].write_bytes(b"with my notes")
    with pytest.raises(DataError, match=r"summary\.csv: was changed since it was written"):
        objects_from_masks(predicted, out)
    assert own[1].read_bytes() == b"with my notes"


def test_an_input_is_never_replaced(tmp_path):
    save_png(tmp_path / "masks" / "a.png", blobs(1) * np.uint8(255))
    image = tmp_path / "a_labels.tif"
    tifffile.imwrite(image, np.full((60, 70), 9, np.uint8))
    before = image.read_bytes()
    with pytest.raises(DataError, match=r"a_labels\.tif: is one of the images"):
        objects_from_masks(tmp_path / "masks", tmp_path, images=image, overwrite=True)
    assert image.read_bytes() == before


def test_killed_the_same_command_may_write_again(predicted, tmp_path):
    """Names are recorded before anything is written, sizes afterwards."""
    out = tmp_path / "out"
    with pytest.raises(Killed), recorded(out, ["cell2_labels.tif"]):
        (out / "cell2_labels.tif").write_bytes(b"half")
        during = (out / WRITTEN).read_bytes()
        raise Killed
    (out / WRITTEN).write_bytes(during)
    assert objects_from_masks(predicted, out).objects


class Killed(BaseException):
    pass
