"""`predict_files` writes over nothing that is not its own, and leaves nothing of earlier calls."""

from __future__ import annotations

import shutil
from functools import partial

import numpy as np
import pytest
import tifffile
from PIL import Image

from keras_unet.errors import DataError
from keras_unet.inference import predict_files
from keras_unet.inference.files import file_predictor, segmentation, state
from keras_unet.inference.objects.mask_objects import objects_from_masks


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Two models that give background, or cells, everywhere."""
    from conftest import make_trained

    from keras_unet.models import TrainedModel, build_unet, save_model

    folder = tmp_path_factory.mktemp("models")
    network = build_unet((None, None, 1), 2, filters=2, depth=1)
    logits = network.get_layer("logits")
    for number, bias in enumerate(([50.0, 0.0], [0.0, 50.0])):
        logits.set_weights([logits.get_weights()[0] * 0, np.array(bias)])
        save_model(TrainedModel(network, make_trained().card), folder / f"{number}.keras")
    return folder / "0.keras", folder / "1.keras"


def image(path, *shape, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 200, shape or (40, 50)).astype(np.uint8)
    if path.suffix == ".tif":
        tifffile.imwrite(path, pixels, photometric="minisblack")
    else:
        Image.fromarray(pixels).save(path)
    return path


def names(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def test_a_hand_drawn_mask_is_kept(models, tmp_path):
    for name in "abc":
        image(tmp_path / "in" / f"{name}.png")
    drawn = [image(tmp_path / "out" / f"{name}_mask.png", seed=7) for name in "ab"]
    before = [path.read_bytes() for path in drawn]
    with pytest.raises(DataError) as refused:
        predict_files(models[0], tmp_path / "in", tmp_path / "out")
    assert all(f"{path}: was there before" in str(refused.value) for path in drawn)
    assert "--overwrite" in str(refused.value)
    assert [path.read_bytes() for path in drawn] == before
    assert names(tmp_path / "out") == ["a_mask.png", "b_mask.png"]  # not even c
    predict_files(models[0], tmp_path / "in", tmp_path / "out", overwrite=True)
    assert not np.asarray(Image.open(drawn[0])).any()


def test_a_corrected_mask_is_done(models, tmp_path):
    source, out, said = tmp_path / "in", tmp_path / "out", []
    image(source / "a.png")
    predict_files(models[0], source, out)
    corrected = image(out / "a_mask.png", seed=5).read_bytes()
    image(source / "b.png")
    done = predict_files(models[0], source, out, say=said.append)
    assert [path.name for path in done.written] == ["b_mask.png"]
    assert (out / "a_mask.png").read_bytes() == corrected
    assert "a.png: its results were changed since, and are kept" in said


def test_a_corrected_mask_is_not_replaced_by_another_model(models, tmp_path):
    source, out = tmp_path / "in", tmp_path / "out"
    image(source / "a.png")
    predict_files(models[0], source, out)
    corrected = image(out / "a_mask.png", seed=5).read_bytes()
    image(source / "b.png")
    with pytest.raises(DataError, match=r"a_mask\.png: was changed since it was written"):
        predict_files(models[1], source, out)
    assert (out / "a_mask.png").read_bytes() == corrected
    assert "b_mask.png" not in names(out)
    (out / "a_mask.png").rename(tmp_path / "mine.png")
    done = predict_files(models[1], source, out)
    assert [path.name for path in done.written] == ["a_mask.png", "b_mask.png"]


def test_an_input_is_never_replaced(models, tmp_path):
    image(tmp_path / "a.png")
    before = image(tmp_path / "a_mask.png", seed=1).read_bytes()
    for overwrite in (False, True):
        with pytest.raises(DataError, match=r"a_mask\.png: is one of the images") as refused:
            predict_files(models[0], tmp_path, tmp_path, overwrite=overwrite)
        assert "--overwrite" not in str(refused.value)
    assert (tmp_path / "a_mask.png").read_bytes() == before
    assert names(tmp_path) == ["a.png", "a_mask.png"]


def test_results_beside_the_images_are_no_images(models, tmp_path):
    image(tmp_path / "a.png")
    predict_files(models[0], tmp_path, tmp_path, probabilities=True)
    objects_from_masks(tmp_path / "a_mask.png", tmp_path, formats=["labels"])
    held, said = names(tmp_path), []
    done = predict_files(models[0], tmp_path, tmp_path, probabilities=True, say=said.append)
    assert ([path.name for path in done.skipped], done.written) == (["a.png"], ())
    assert names(tmp_path) == held and "a_objects.png" in held
    assert any("5 files" in text and "are results" in text for text in said)
    image(tmp_path / "b.png")
    done = predict_files(models[1], tmp_path, tmp_path)
    assert [path.name for path in done.written] == ["a_mask.png", "b_mask.png"]
    with pytest.raises(DataError, match=r"a_mask\.png: is a result of `predict` itself"):
        predict_files(models[0], tmp_path / "a_mask.png", tmp_path)


def test_two_results_of_one_name_are_refused(models, tmp_path):
    source, out = tmp_path / "in", tmp_path / "out"
    image(source / "a.tif", 2, 40, 50)
    predict_files(models[0], source, out)
    image(source / "a_000.png")
    for overwrite in (False, True):  # also where one of them is done already
        with pytest.raises(DataError, match=r"a\.tif and .*a_000\.png would both write a_000_over"):
            predict_files(models[0], source, out, overwrite=overwrite)
    predict_files(models[0], source, out, overlays=False)
    assert names(out) == ["a_000_mask.png", "a_mask.tif"]


def test_results_of_another_model_go(models, tmp_path):
    source, out = image(tmp_path / "a.png"), tmp_path / "out"
    options = {"probabilities": True, "objects": ("csv", "labels")}
    predict_files(models[0], source, out, **options)
    (out / "a_objects.csv").write_text("with a column of my own")
    with pytest.raises(DataError, match=r"a_objects\.csv: was changed"):
        predict_files(models[1], source, out, **options)
    predict_files(models[1], source, out, format="tiff")
    assert names(out) == ["a_mask.tif", "a_objects.csv", "a_overlay.png"]
    assert tifffile.imread(out / "a_mask.tif").all()
    predict_files(models[1], source, out, format="png", overwrite=True)
    assert names(out) == ["a_mask.png", "a_objects.csv", "a_overlay.png"]


def test_a_zarr_is_replaced_unless_it_was_changed(models, tmp_path):
    zarr = pytest.importorskip("zarr", minversion="3")
    source, out = image(tmp_path / "a.png"), tmp_path / "out"
    for model in models:
        predict_files(model, source, out, format="zarr", overlays=False)
    mask = zarr.open(str(out / "a_mask.zarr"))["0"]
    assert np.all(mask[:] == 255)
    mask[:] = np.random.default_rng(0).integers(0, 2, mask.shape) * 255
    with pytest.raises(DataError, match=r"a_mask\.zarr: was changed"):
        predict_files(models[0], source, out, format="zarr", overlays=False)
    predict_files(models[0], source, out, overlays=False, overwrite=True)
    assert names(out) == ["a_mask.png", "a_mask.zarr"]  # what was changed stays


class Stopped(BaseException):
    """As sudden as a kill."""


def stop_in(monkeypatch, module, name):
    def stop(*_, **__):
        raise Stopped

    monkeypatch.setattr(module, name, stop)


@pytest.mark.parametrize(
    ("module", "name"),
    [(segmentation, "write_results"), (state.Workplace, "publish"), (state, "size_of")],
)
def test_stopped_between_two_models(models, tmp_path, monkeypatch, module, name):
    """Whatever the moment, the earlier results are known for what they are."""
    source, out = image(tmp_path / "a.png"), tmp_path / "out"
    predict_files(models[0], source, out, probabilities=True)
    stop_in(monkeypatch, module, name)
    with pytest.raises(Stopped):
        predict_files(models[1], source, out, format="tiff")
    monkeypatch.undo()
    predict_files(models[1], source, out, format="tiff")
    assert names(out) == ["a_mask.tif", "a_overlay.png"]
    assert {path.name for path in (out / ".predict").iterdir()} == {"lock", "a.json"}


def test_an_image_that_turns_out_bad_leaves_the_earlier_results(models, tmp_path):
    source, out = tmp_path / "a.tif", tmp_path / "out"
    image(source, 40, 50)
    predict_files(models[0], source, out)
    tifffile.imwrite(source, np.full((40, 50), np.nan, np.float32))
    with pytest.raises(DataError, match="NaN"):
        predict_files(models[0], source, out)
    assert names(out) == ["a_mask.png", "a_overlay.png"]
    image(source, 40, 50)
    assert predict_files(models[1], source, out).written  # they may be replaced
    assert np.asarray(Image.open(out / "a_mask.png")).all()


def test_what_was_computed_of_an_image_that_is_gone_is_removed(models, tmp_path):
    source, other, out = image(tmp_path / "a.png", 300, 50), tmp_path / "z.png", tmp_path / "out"

    def interrupted(done, total):
        if done > 2:
            raise Stopped

    def call(path, **more):
        return predict_files(models[0], path, out, tile=60, overlays=False, say=said.append, **more)

    said = []
    with pytest.raises(Stopped):
        call(source, progress=interrupted)
    call(image(tmp_path / "b.png"))
    left = {path.name for path in (out / ".predict").iterdir()}
    assert left == {"lock", "a.json", "a.classes", "b.json"}  # a is still there: it may go on
    source.rename(other)
    call(tmp_path / "b.png")
    assert any("a.png: is gone" in text for text in said)
    assert {path.name for path in (out / ".predict").iterdir()} == {"lock", "b.json"}


def test_a_model_replaced_while_it_is_loaded(models, tmp_path, monkeypatch):
    """Training writes a better model in the middle: the next call must not take the old mask."""
    source, out = image(tmp_path / "a.png"), tmp_path / "out"
    run = tmp_path / "run"
    run.mkdir()
    best = run / "best.keras"
    best.write_bytes(models[0].read_bytes())
    load = file_predictor.trained_model

    def replaced(path, *, after, **options):
        found = load(path, **options) if after else None
        best.write_bytes(models[1].read_bytes())
        return found or load(path, **options)

    for after in (True, False):
        best.write_bytes(models[0].read_bytes())
        with monkeypatch.context() as patch:
            patch.setattr(file_predictor, "trained_model", partial(replaced, after=after))
            predict_files(run, source, out)
        predict_files(run, source, out)
        assert np.asarray(Image.open(out / "a_mask.png")).all(), after


def test_room_for_all_results_is_wanted_at_once(models, tmp_path, monkeypatch):
    source, out = tmp_path / "in", tmp_path / "out"
    for name in "abc":
        image(source / f"{name}.png", 100, 100)
    usage = shutil.disk_usage(tmp_path)
    options = {"probabilities": True, "overlays": False}

    def call(free, path=source):
        monkeypatch.setattr("shutil.disk_usage", lambda path: usage._replace(free=free))
        return predict_files(models[0], path, out, **options).written

    # 10 kB of classes and 80 kB of probabilities while predicting, then 80 kB of a result each
    with pytest.raises(OSError, match="No space left: .* for the results"):
        call(300_000)
    assert names(out) == []
    assert len(call(300_000, source / "a.png")) == 1
    assert len(call(300_000)) == 2
