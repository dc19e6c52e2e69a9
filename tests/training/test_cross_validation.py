"""Cross-validation: the folds' runs, their report, and going on after a stop."""

from __future__ import annotations

import io
import json
import os
import signal

import numpy as np
import pytest
from rich.console import Console

import keras_unet
from keras_unet.data.synthetic import write_dataset
from keras_unet.errors import ConfigError
from keras_unet.training import cross_validation, load_config
from keras_unet.training.cross_validation import cross_validate, read_splits
from keras_unet.training.loop import StopRequest


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cells")
    return write_dataset(folder, train=4, val=1, size=(48, 48), seed=0) / "train"


def config(data, folder, *settings):
    small = ["model.filters=2", "model.depth=1", "model.padding=same", "tile=32", "steps=2"]
    small += ["steps_per_epoch=2", "data.label_kind=instances", "augment=flips", "name=cv"]
    return load_config(None, [*small, f"output={folder}", *settings], data={"images": data})


def quiet():
    return Console(file=io.StringIO())


def test_folds_are_stored_scored_pooled_and_gone_on_with(data, tmp_path, monkeypatch):
    trained = []
    real = cross_validation.train

    def stops_at_the_second(*args, **options):
        trained.append(options.get("resume") or args[0].name)
        if len(trained) == 2:
            raise KeyboardInterrupt
        return real(*args, **options)

    monkeypatch.setattr(cross_validation, "train", stops_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        cross_validate(config(data, tmp_path), 2, quiet(), files={"plan.toml": "# why\n"})
    folder = tmp_path / "cv"
    assert (folder / "plan.toml").read_text() == "# why\n"
    first = (folder / "fold_0" / "best.keras").read_bytes()

    found = cross_validate(resume=folder, console=quiet())
    assert trained == ["fold_0", "fold_1", folder / "fold_0", "fold_1"]
    assert (folder / "fold_0" / "best.keras").read_bytes() == first
    held = read_splits(folder).folds
    assert sorted(sum(held, ())) == [path.stem for path in sorted((data / "images").iterdir())]
    for evaluation, names in zip(found.folds, held, strict=True):
        assert set(evaluation.images) == set(names)
    assert load_config(folder / "fold_1" / "config.toml").data.held_out == held[1]

    report = json.loads((folder / "cross_validation.json").read_text())
    dice = [one.total["mean_dice"] for one in found.folds]
    assert report["mean"]["mean_dice"] == pytest.approx(np.mean(dice), abs=2e-6)
    assert report["std"]["mean_dice"] == pytest.approx(np.std(dice, ddof=1), abs=2e-6)
    # both folds hold out as many pixels that count, or nearly: the pooled error is their mean
    wrong = [one.total["pixel_error"] for one in found.folds]
    assert min(wrong) <= report["pooled"]["pixel_error"] <= max(wrong)
    assert report["images"] == 4

    older = found.folds[0].model_copy(deep=True)  # a fold that 0.3 finished
    for counts in older.counts.values():
        del counts["object_areas"]
    pooled = cross_validation.summary([older, found.folds[1]])["pooled"]
    assert pooled["mean_dice"] == report["pooled"]["mean_dice"]
    assert set(report["pooled"]["objects"]) - set(pooled["objects"]) == {
        "false_area",
        "missed_area",
    }

    image = np.random.default_rng(0).integers(0, 255, (40, 40, 1)).astype(np.uint8)
    each = [keras_unet.predict(folder / f"fold_{n}", image) for n in (0, 1)]
    np.testing.assert_allclose(keras_unet.predict(folder, image), np.mean(each, axis=0), atol=1e-5)
    with pytest.raises(ConfigError, match="a run of this name is there already"):
        cross_validate(config(data, tmp_path), 2, quiet())


def test_a_fold_that_a_signal_ends_goes_on_within_its_cross_validation(data, tmp_path, monkeypatch):
    whole = cross_validate(config(data, tmp_path / "whole"), 2, quiet())
    real, console = StopRequest.__enter__, Console(file=io.StringIO(), width=500)

    def enter(self):
        entered = real(self)
        if (tmp_path / "cv" / "fold_1").exists():
            os.kill(os.getpid(), signal.SIGTERM)
        return entered

    monkeypatch.setattr(StopRequest, "__enter__", enter)
    with pytest.raises(SystemExit):
        cross_validate(config(data, tmp_path), 2, console)
    monkeypatch.undo()
    last = console.file.getvalue().splitlines()[-1]
    assert last == f"Stopped. To go on: keras-unet train --resume {tmp_path / 'cv'}"
    said = Console(file=io.StringIO(), width=500)
    found = cross_validate(resume=tmp_path / "cv", console=said)
    assert "Going on at step 0" in said.file.getvalue()
    assert found.report == whole.report


def test_what_cannot_be_folded_is_said_before_anything_is_written(data, tmp_path):
    with pytest.raises(ConfigError, match="9 folds of 4 images"):
        cross_validate(config(data, tmp_path), 9, quiet())
    with pytest.raises(ConfigError, match="leave out data.validation"):
        cross_validate(config(data, tmp_path, f"data.validation={data}"), 2, quiet())
    with pytest.raises(ConfigError, match=r"no cross-validation here.*splits\.json"):
        cross_validate(resume=tmp_path, console=quiet())
    assert not list(tmp_path.iterdir())
