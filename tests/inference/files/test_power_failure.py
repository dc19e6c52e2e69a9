"""Results that a power failure left empty or torn are made again; those that are recorded are not.

A file that is renamed without being synced may be empty afterwards, though its record is there.
"""

from __future__ import annotations

import os

import numpy as np
import pytest
from PIL import Image

from keras_unet.errors import DataError
from keras_unet.inference import predict_files
from keras_unet.inference.files import segmentation
from keras_unet.inference.objects.mask_objects import objects_from_masks


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    from conftest import make_trained

    from keras_unet.models import TrainedModel, build_unet, save_model

    network = build_unet((None, None, 1), 2, filters=2, depth=1)
    path = tmp_path_factory.mktemp("model") / "tiny.keras"
    return save_model(TrainedModel(network, make_trained().card), path)


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "x.png"
    pixels = np.random.default_rng(0).integers(0, 255, (40, 50), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def again(model, source, out, **options):
    said = []
    done = predict_files(model, source, out, say=said.append, **options)
    return [path.name for path in done.written], "\n".join(said)


def torn(data):
    return data[: len(data) // 2]


def emptied(data):
    return b""


def zeros(data):
    return bytes(2 * len(data))


@pytest.mark.parametrize("name", ["x_mask.png", "x_mask.tif", "x_overlay.png", "x_objects.csv"])
@pytest.mark.parametrize(
    ("left", "told"),
    [(emptied, "is empty"), (torn, "is damaged"), (zeros, "holds nothing but zeros")],
)
def test_a_result_that_no_program_can_open_is_made_again(model, source, tmp_path, name, left, told):
    if name.endswith("csv") and left is torn:
        pytest.skip("half a table is a table")
    out = tmp_path / "out"
    form = "tiff" if name.endswith("tif") else "png"
    options = {"objects": ("csv",), "format": form}
    predict_files(model, source, out, **options)
    whole = {path.name: path.read_bytes() for path in out.glob("[!.]*")}
    (out / name).write_bytes(left(whole[name]))
    written, said = again(model, source, out, **options)
    assert written == [f"x_mask.{name[-3:] if 'mask' in name else 'png'}"]
    assert f"x.png: begins anew, {name} {told}" in said
    assert {path.name: path.read_bytes() for path in out.glob("[!.]*")} == whole
    assert again(model, source, out, **options)[0] == []


def test_another_model_replaces_it_too(model, source, tmp_path):
    predict_files(model, source, tmp_path / "out")
    (tmp_path / "out" / "x_mask.png").write_bytes(b"")
    assert again(model, source, tmp_path / "out", threshold=0.9)[0] == ["x_mask.png"]


def test_a_correction_beside_it_is_kept(model, source, tmp_path):
    """Whoever drew the mask wants it; the overlay can be had with --overwrite."""
    out = tmp_path / "out"
    predict_files(model, source, out)
    (out / "x_overlay.png").write_bytes(b"")
    Image.new("L", (50, 40), 255).save(out / "x_mask.png")
    before = (out / "x_mask.png").read_bytes()
    written, said = again(model, source, out)
    assert written == [] and "its results were changed since, and are kept" in said
    with pytest.raises(DataError, match=r"x_mask\.png: was changed since"):
        predict_files(model, source, out, threshold=0.9)
    assert (out / "x_mask.png").read_bytes() == before


class Stopped(BaseException):
    """As sudden as a kill."""


def test_one_that_waits_to_be_moved_is_made_again(model, source, tmp_path, monkeypatch):
    out = tmp_path / "out"

    def stop(*_):
        raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(segmentation, "publish", stop)
        with pytest.raises(Stopped):
            predict_files(model, source, out)
    (out / ".predict" / "x_mask.png").write_bytes(b"")
    assert again(model, source, out)[0] == ["x_mask.png"]
    assert np.asarray(Image.open(out / "x_mask.png")).shape == (40, 50)


@pytest.mark.parametrize("form", ["png", "tiff", "zarr"])
def test_results_are_on_the_disk_before_their_record(model, source, tmp_path, monkeypatch, form):
    if form == "zarr":
        pytest.importorskip("zarr", minversion="3")
    synced, recorded = set(), []
    fsync, write = os.fsync, segmentation.write_record

    def noted(file):
        synced.add(os.fstat(file).st_ino)
        fsync(file)

    def written(path, record):
        if record.results is not None:
            for name in record.results:
                made = path.parent / name
                for part in [made, *made.rglob("*")]:
                    assert part.stat().st_ino in synced, part
                recorded.append(name)
        write(path, record)

    monkeypatch.setattr(os, "fsync", noted)
    monkeypatch.setattr(segmentation, "write_record", written)
    objects = ("labels", "csv", "geojson", "rois")
    options = {"format": form, "probabilities": True, "objects": objects}
    predict_files(model, source, tmp_path / "out", **options)
    assert len(recorded) == 7


def test_objects_are_made_again(model, source, tmp_path):
    predict_files(model, source, tmp_path / "out")
    for name, left in (("x_labels.tif", emptied), ("x_objects.png", torn)):
        objects_from_masks(tmp_path / "out", tmp_path / "objects")
        path = tmp_path / "objects" / name
        whole = path.read_bytes()
        path.write_bytes(left(whole))
        objects_from_masks(tmp_path / "out", tmp_path / "objects")
        assert len(path.read_bytes()) == len(whole)  # an OME-TIFF's UUID is another
    own = tmp_path / "own"
    own.mkdir()
    (own / "x_labels.tif").write_bytes(b"")
    with pytest.raises(DataError, match=r"x_labels\.tif: was there before"):
        objects_from_masks(tmp_path / "out", own)
