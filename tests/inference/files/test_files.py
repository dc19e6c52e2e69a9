"""`predict_files`: what comes in, what is written, and what is refused."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from keras_unet.data.images import read_image
from keras_unet.data.stored_pixels import PixelSize
from keras_unet.data.tiff_windows import read_pixel_size
from keras_unet.errors import ConfigError, DataError
from keras_unet.inference import predict, predict_files
from keras_unet.inference.files import state
from keras_unet.inference.files.state import Workplace
from keras_unet.inference.inputs import find_inputs
from keras_unet.inference.objects.finding import to_objects
from keras_unet.pictures import without_legend

TILE = 60  # of a network of depth 1: 52 pixels of output


def picture(*shape, dtype=np.uint8, seed=0):
    return np.random.default_rng(seed).integers(0, 200, shape).astype(dtype)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Paths of small networks with random weights, by (channels, classes)."""
    import keras

    from keras_unet.data import LabelRule, Normalization
    from keras_unet.models import ModelCard, TrainedModel, build_unet, save_model

    keras.utils.set_random_seed(0)
    folder = tmp_path_factory.mktemp("models")
    found = {}
    for channels, classes in ((1, 2), (3, 2), (1, 3)):
        network = build_unet((None, None, channels), classes, filters=2, depth=1)
        card = ModelCard(
            name="test",
            classes=("background", "cell", "border")[:classes],
            normalization=Normalization(),
            labels=LabelRule().resolve(range(classes)),
            image_dtype="uint8",
            created="2026-01-01T00:00:00+00:00",
            versions={},
            config={},
            data={},
            metrics={},
        )
        path = folder / f"{channels}_{classes}.keras"
        found[channels, classes] = save_model(TrainedModel(network, card), path)
    return found


def expected(model, image, **options):
    return predict(model, image, tile=TILE, **options)


def test_a_folder_of_kinds(models, tmp_path):
    """PNG, plain TIFF, a stack with sizes, a Zarr: each result as `predict` has it, in its form."""
    zarr = pytest.importorskip("zarr", minversion="3")
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    single, stack = picture(70, 90), picture(2, 3, 40, 50, seed=1)
    Image.fromarray(single).save(source / "a.png")
    tifffile.imwrite(source / "b.tif", single[:60])
    metadata = {"axes": "TZYX", "PhysicalSizeX": 0.25, "PhysicalSizeY": 0.5, "PhysicalSizeZ": 2.0}
    tifffile.imwrite(source / "c.ome.tif", stack, metadata=metadata)
    zarr.create_array(store=str(source / "d.zarr"), data=single[:, :80], chunks=(32, 32))
    steps = []
    done = predict_files(
        models[1, 2],
        source,
        out,
        probabilities=True,
        tile=TILE,
        progress=lambda *step: steps.append(step),
    )
    masks = ["a_mask.png", "b_mask.png", "c_mask.tif", "d_mask.zarr"]
    assert [path.name for path in done.written] == masks
    assert done.skipped == ()
    assert steps == sorted(steps)
    assert steps[-1][0] == steps[-1][1]
    assert len({total for _, total in steps}) == 1

    chances = expected(models[1, 2], single)
    np.testing.assert_array_equal(
        np.asarray(Image.open(out / "a_mask.png")), 255 * chances.argmax(-1)
    )
    with tifffile.TiffFile(out / "a_probabilities.tif") as file:
        assert file.series[0].axes == "CYX"
        np.testing.assert_array_equal(file.asarray(), np.moveaxis(chances, -1, 0))
    with tifffile.TiffFile(out / "c_probabilities.tif") as file:
        assert file.series[0].axes == "TZCYX"
        assert 'Name="background"' in file.ome_metadata
        assert 'Name="cell"' in file.ome_metadata
        given = file.asarray()
    for place in np.ndindex(2, 3):
        np.testing.assert_array_equal(
            given[place], np.moveaxis(expected(models[1, 2], stack[place]), -1, 0)
        )
    with tifffile.TiffFile(out / "c_mask.tif") as file:
        assert file.series[0].axes == "TZYX"
        np.testing.assert_array_equal(file.asarray(), 255 * given.argmax(2))
    size = PixelSize(height=0.5, width=0.25, depth=2.0)
    assert (
        read_pixel_size(out / "c_mask.tif") == read_pixel_size(out / "c_probabilities.tif") == size
    )
    np.testing.assert_array_equal(
        zarr.open(str(out / "d_mask.zarr"))["0"][:],
        255 * expected(models[1, 2], single[:, :80]).argmax(-1),
    )
    for name in ("a", "b", "c_000", "c_005", "d"):
        assert (out / f"{name}_overlay.png").is_file()
    kept = {path.name for path in (out / ".predict").iterdir()}
    assert kept == {"lock", "a.json", "b.json", "c.json", "d.json"}


@pytest.mark.parametrize(("dtype", "atol"), [("float16", 5e-4), ("uint8", 0.5 / 255 + 1e-6)])
def test_probabilities_in_fewer_bits(models, tmp_path, dtype, atol):
    image = picture(70, 90)
    Image.fromarray(image).save(tmp_path / "a.png")
    predict_files(
        models[1, 3],
        tmp_path / "a.png",
        tmp_path / "out",
        probabilities=True,
        dtype=dtype,
        tile=TILE,
    )
    with tifffile.TiffFile(tmp_path / "out" / "a_probabilities.tif") as file:
        given = file.asarray()
        assert "border" in file.pages.first.description
    assert given.dtype == dtype
    found = np.moveaxis(given / (255 if dtype == "uint8" else 1), 0, -1)
    chances = expected(models[1, 3], image)
    np.testing.assert_allclose(found, chances, atol=atol)
    mask = np.asarray(Image.open(tmp_path / "out" / "a_mask.png"))
    np.testing.assert_array_equal(mask, chances.argmax(-1))  # decided before rounding


def test_threshold_and_several_models(models, tmp_path):
    Image.fromarray(picture(70, 90)).save(tmp_path / "a.png")
    given = []
    for number, threshold in enumerate((0.2, 0.8)):
        out = tmp_path / str(number)
        predict_files([models[1, 2]] * 2, tmp_path / "a.png", out, threshold=threshold, tile=TILE)
        given.append(np.asarray(Image.open(out / "a_mask.png")) > 0)
    chances = expected(models[1, 2], picture(70, 90))[..., 1]
    np.testing.assert_array_equal(given[0], chances > 0.2)
    np.testing.assert_array_equal(given[1], chances > 0.8)
    with pytest.raises(DataError, match="two classes, this one has 3"):
        predict_files(models[1, 3], tmp_path / "a.png", tmp_path / "out", threshold=0.5)


def test_objects(models, tmp_path):
    """Labels and table of each class's components; borders belong to the objects beside them."""
    image = picture(2, 70, 90)
    metadata = {"axes": "ZYX", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}
    tifffile.imwrite(tmp_path / "a.ome.tif", image, metadata=metadata)
    objects = {"objects": ("labels", "csv"), "tile": TILE}
    for border in (None, "border"):
        out = tmp_path / str(border)
        predict_files(models[1, 3], tmp_path / "a.ome.tif", out, border=border, **objects)
        labels = tifffile.imread(out / "a_labels.tif")
        masks = tifffile.imread(out / "a_mask.tif")
        np.testing.assert_array_equal(labels > 0, masks > 0)
        for mask, numbers in zip(masks, labels, strict=True):
            given, _ = to_objects(mask, border=2 if border else None)
            np.testing.assert_array_equal(numbers, given)
        rows = (out / "a_objects.csv").read_text().splitlines()
        assert "area_um2" in rows[0]
        assert len(rows) == 1 + sum(int(numbers.max()) for numbers in labels)
        assert {path.name for path in (out / ".predict").iterdir()} == {"lock", "a.json"}
    with pytest.raises(ConfigError, match="border is 'edge'; expected one of cell, border"):
        predict_files(models[1, 3], tmp_path / "a.ome.tif", out, border="edge", **objects)


def test_formats(models, tmp_path):
    pytest.importorskip("zarr", minversion="3")
    tifffile.imwrite(tmp_path / "a.tif", picture(3, 40, 50), photometric="minisblack")
    for form, name in (("tiff", "a_mask.tif"), ("zarr", "a_mask.zarr")):
        (mask,) = predict_files(models[1, 2], tmp_path / "a.tif", tmp_path, format=form).written
        assert mask.name == name
    with pytest.raises(ConfigError, match="PNG can't hold a stack of 3 images"):
        predict_files(models[1, 2], tmp_path / "a.tif", tmp_path / "out", format="png")
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".predict"]


def test_pages_of_unequal_size(models, tmp_path):
    pages = [picture(40, 50), picture(61, 33, seed=1)]
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for page in pages:
            writer.write(page)
    predict_files(models[1, 2], tmp_path / "a.tif", tmp_path / "out", tile=TILE)
    for number, page in enumerate(pages):
        mask = read_image(tmp_path / "out" / "a_mask.tif", number)[..., 0]
        np.testing.assert_array_equal(mask, 255 * expected(models[1, 2], page).argmax(-1))


def test_overlays_of_large_images_are_scaled_down(models, tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", picture(100, 170), tile=(32, 32))
    predict_files(models[1, 2], tmp_path / "a.tif", tmp_path / "out", preview=40)
    with Image.open(tmp_path / "out" / "a_overlay.png") as overlay:
        assert without_legend(overlay).size == (34, 20)
    predict_files(models[1, 2], tmp_path / "a.tif", tmp_path / "none", overlays=False)
    assert not list((tmp_path / "none").glob("*overlay*"))


@pytest.mark.parametrize(
    ("shape", "axes", "channels", "message"),
    [
        ((2, 3, 40, 50), "ZCYX", 1, "axes Z 2, Y 40, X 50, C 3: 3 channels; this model expects 1"),
        ((40, 50), "YX", 3, "axes Y 40, X 50, C 1: 1 channel; this model expects 3"),
    ],
)
def test_channels_that_do_not_fit(models, tmp_path, shape, axes, channels, message):
    tifffile.imwrite(
        tmp_path / "a.tif", picture(*shape), metadata={"axes": axes}, photometric="minisblack"
    )
    with pytest.raises(DataError, match=message):
        predict_files(models[channels, 2], tmp_path / "a.tif", tmp_path / "out")


def test_channels_are_matched_to_the_model(models, tmp_path):
    image = picture(2, 3, 40, 50)
    tifffile.imwrite(tmp_path / "a.ome.tif", image, metadata={"axes": "ZCYX"})
    predict_files(models[3, 2], tmp_path / "a.ome.tif", tmp_path / "out", tile=TILE)
    masks = tifffile.imread(tmp_path / "out" / "a_mask.tif")
    for mask, one in zip(masks, np.moveaxis(image, 1, -1), strict=True):
        np.testing.assert_array_equal(mask, 255 * expected(models[3, 2], one).argmax(-1))


def test_a_bad_image_is_named_and_leaves_nothing(models, tmp_path):
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    tifffile.imwrite(source / "a.tif", picture(40, 50))
    image = picture(300, 50).astype(np.float32)
    image[290, 7] = np.inf
    tifffile.imwrite(source / "b.tif", image, compression="zlib", rowsperstrip=16)
    with pytest.raises(DataError, match=r"b\.tif: .*infinite"):
        predict_files(models[1, 2], source, out, tile=TILE)
    assert (out / "a_mask.png").is_file()
    assert not list(out.glob("b*"))
    assert {path.name for path in (out / ".predict").iterdir()} == {"lock", "a.json"}

    tifffile.imwrite(source / "b.tif", picture(300, 50), tile=(16, 16), compression="zlib")
    data = (source / "b.tif").read_bytes()
    (source / "b.tif").write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match=r"b\.tif: .*(truncated|damaged)"):
        predict_files(models[1, 2], source, out, tile=TILE)
    assert not list(out.glob("b*"))


def test_an_output_that_cannot_be_written(models, tmp_path):
    Image.fromarray(picture(40, 50)).save(tmp_path / "a.png")
    (tmp_path / "out").write_text("a file")
    with pytest.raises(OSError, match="out"):
        predict_files(models[1, 2], tmp_path / "a.png", tmp_path / "out")


def test_a_disk_without_room_is_refused_at_once(models, tmp_path, monkeypatch):
    Image.fromarray(picture(40, 50)).save(tmp_path / "a.png")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(OSError, match="No space left: .* are needed"):
        predict_files(models[1, 2], tmp_path / "a.png", tmp_path / "out")


def test_a_disk_that_fills_up_keeps_what_was_computed(models, tmp_path, monkeypatch):
    """The kernel's own answer, from /dev/full; afterwards the run goes on."""
    tifffile.imwrite(tmp_path / "a.tif", picture(400, 50))
    full = os.open("/dev/full", os.O_RDWR)
    calls, pwrite = [], os.pwrite

    def until_full(file, data, at):
        calls.append(at)
        return pwrite(file if len(calls) < 4 else full, data, at)

    monkeypatch.setattr(state.os, "pwrite", until_full)
    with pytest.raises(OSError, match="No space left"):
        predict_files(models[1, 2], tmp_path / "a.tif", tmp_path / "out", tile=TILE)
    os.close(full)
    assert not list((tmp_path / "out").glob("a*"))
    monkeypatch.undo()
    said = []
    predict_files(models[1, 2], tmp_path / "a.tif", tmp_path / "out", tile=TILE, say=said.append)
    assert any("a.tif: goes on at row" in text for text in said)
    mask = np.asarray(Image.open(tmp_path / "out" / "a_mask.png"))
    np.testing.assert_array_equal(mask, 255 * expected(models[1, 2], picture(400, 50)).argmax(-1))


def test_two_at_once_are_refused(models, tmp_path):
    Image.fromarray(picture(40, 50)).save(tmp_path / "a.png")
    with Workplace(tmp_path / "out"), pytest.raises(DataError, match="another prediction"):
        predict_files(models[1, 2], tmp_path / "a.png", tmp_path / "out")


def test_unknown_options(models, tmp_path):
    with pytest.raises(ConfigError, match="treshold: unknown"):
        predict_files(models[1, 2], tmp_path, tmp_path / "out", treshold=0.4)
    with pytest.raises(ConfigError, match="format"):
        predict_files(models[1, 2], tmp_path, tmp_path / "out", format="jpeg")
    Image.fromarray(picture(4, 4)).save(tmp_path / "a.png")
    with pytest.raises(ConfigError, match="empty sequence of models"):
        predict_files([], tmp_path, tmp_path / "out")


def test_masks_lie_over_the_image_as_displayed(models, tmp_path):
    """Whatever holds the orientation, and however the pixels are compressed."""
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    displayed = picture(70, 90)
    stored = np.rot90(displayed)  # orientation 6: to be turned clockwise
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(stored).save(source / "png.png", exif=exif)
    for name, layout in (
        ("raw", {}),
        ("lzw", {"compression": "lzw"}),
        ("tiles", {"compression": "zstd", "tile": (32, 32)}),
        ("white", {"compression": "lzw", "photometric": "miniswhite"}),
    ):
        pixels = 255 - stored if name == "white" else stored
        tags = [(274, 3, 1, 6, True)]
        tifffile.imwrite(source / f"{name}.tif", pixels, extratags=tags, metadata=None, **layout)
    predict_files(models[1, 2], source, out, probabilities=True, tile=TILE)
    chances = expected(models[1, 2], displayed)
    for name in ("png", "raw", "lzw", "tiles", "white"):
        mask = np.asarray(Image.open(out / f"{name}_mask.png"))
        np.testing.assert_array_equal(mask, 255 * chances.argmax(-1))
        found = tifffile.imread(out / f"{name}_probabilities.tif")
        np.testing.assert_array_equal(found, np.moveaxis(chances, -1, 0))


def test_find_inputs(tmp_path):
    folder = tmp_path / "images"
    (folder / "c.zarr").mkdir(parents=True)
    (folder / "c.zarr" / ".zgroup").write_text(json.dumps({"zarr_format": 2}))
    assert find_inputs(tmp_path) == [folder / "c.zarr"]
    for name in ("cell10.png", "cell2.png"):
        Image.fromarray(picture(4, 4)).save(folder / name)
    assert [path.name for path in find_inputs(tmp_path)] == ["c.zarr", "cell2.png", "cell10.png"]
    assert find_inputs(folder / "c.zarr") == [folder / "c.zarr"]
    Image.fromarray(picture(4, 4)).save(folder / "c.png")
    with pytest.raises(DataError, match="the same name as"):
        find_inputs(tmp_path)
    with pytest.raises(DataError, match="does not exist"):
        find_inputs(Path("nowhere"))


def test_what_is_left_out_of_a_folder_is_said(tmp_path, models):
    inside = tmp_path / "in" / "images"
    (inside / "deep").mkdir(parents=True)
    Image.fromarray(picture(40, 40)).save(inside / "c0.png")
    Image.fromarray(picture(40, 40)).save(inside / "deep" / "c1.png")
    for name in ("c3.bmp", "c4.webp", "Thumbs.db"):
        (inside / name).write_bytes(b"x")
    (tmp_path / "in" / "loose.png").write_bytes(b"x")
    said = []
    predict_files(models[1, 2], tmp_path / "in", tmp_path / "out", say=said.append)
    notes = [text for text in said if text.startswith("note: ")]
    assert "in: 1 other entry left out: loose.png" in notes[0] and len(notes) == 2
    assert "4 other entries left out: c3.bmp, c4.webp, deep (a folder, 1 image inside)" in notes[1]


def test_a_mask_of_classes_is_shown_in_colours_and_read_as_its_values(models, tmp_path):
    """Written as a palette; `objects`, the check before a run and the pipeline read its numbers."""
    from keras_unet.data import LabelRule, load_samples
    from keras_unet.inference import class_pages
    from keras_unet.inference.objects.finding import make_settings
    from keras_unet.inference.objects.mask_objects import objects_from_masks

    for name in "ab":
        (tmp_path / "in").mkdir(exist_ok=True)
        Image.fromarray(picture(70, 90, seed=ord(name))).save(tmp_path / "in" / f"{name}.png")
    predict_files(models[1, 3], tmp_path / "in", tmp_path / "out", tile=TILE)
    chances = expected(models[1, 3], read_image(tmp_path / "in" / "a.png"))
    mask = tmp_path / "out" / "a_mask.png"
    with Image.open(mask) as file:
        assert file.mode == "P" and np.ptp(np.asarray(file.convert("RGB")), axis=-1).any()
        np.testing.assert_array_equal(np.asarray(file), chances.argmax(-1))
        assert file.info["Classes"].splitlines()[1] == "1 cell #e69f00"
    (page,) = class_pages(mask)
    np.testing.assert_array_equal(page, chances.argmax(-1))
    predict_files(models[1, 3], tmp_path / "in", tmp_path / "again", tile=TILE)
    assert (tmp_path / "again" / "a_mask.png").read_bytes() == mask.read_bytes()

    found = objects_from_masks(tmp_path / "out", tmp_path / "o", settings=make_settings())
    grey = tmp_path / "grey" / "a_mask.png"
    grey.parent.mkdir()
    for name in "ab":
        values = np.asarray(Image.open(tmp_path / "out" / f"{name}_mask.png"))
        Image.fromarray(values).save(grey.with_name(f"{name}_mask.png"))
    same = objects_from_masks(grey.parent, tmp_path / "p", settings=make_settings())
    assert (found.objects, found.diameter_px) == (same.objects, same.diameter_px)

    (tmp_path / "set" / "labels").mkdir(parents=True)
    shutil.copytree(tmp_path / "in", tmp_path / "set" / "images")
    for name in "ab":
        shutil.copy(
            tmp_path / "out" / f"{name}_mask.png", tmp_path / "set" / "labels" / f"{name}.png"
        )
    samples, report = load_samples(tmp_path / "set", rule=LabelRule(num_classes=3))
    np.testing.assert_array_equal(samples[0].classes, chances.argmax(-1))
    assert not [note for note in report.notes if "palette" in note]
