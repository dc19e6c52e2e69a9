"""One entry in a table is all that a new loss or augmentation takes, from the settings to a run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from keras import ops

from keras_unet.augment.options import INTENSITY
from keras_unet.data.synthetic import write_dataset
from keras_unet.errors import ConfigError
from keras_unet.losses.table import LOSSES, AddedLoss, training_loss

OWN = Path(__file__).with_name("run_with_own_entries.py")


def keras_unet(*arguments):
    command = [sys.executable, str(OWN), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_entries_added_to_the_tables_are_settings_of_a_run(tmp_path):
    assert "loss.own                    0.0             weight of a loss of our own" in keras_unet(
        "train", "--show-settings"
    )
    listed = keras_unet("augment", "--show-settings")
    assert "range of the share of the inverted image" in listed and "invert_p" in listed
    data = write_dataset(tmp_path / "cells", train=3, val=1, size=(64, 64), seed=0)
    settings = ["model.filters=2", "model.depth=1", "steps=2", "steps_per_epoch=2", "name=run"]
    settings += ["loss.own=0.5", "loss.dice=0.5", "data.label_kind=instances", f"output={tmp_path}"]
    settings += ["augment=none", "augment_options.invert=[0.5, 1.0]"]
    config = tmp_path / "train.toml"
    config.write_text("")
    where = [data / "train", "--validation", data / "val", "--config", config]
    keras_unet("train", *where, *(f"--set={one}" for one in settings))
    kept = (tmp_path / "run" / "config.toml").read_text()
    assert "own = 0.5\n" in kept and "invert = [" in kept
    scores = json.loads((tmp_path / "run" / "evaluation.json").read_text())["total"]
    assert np.isfinite(scores["mean_dice"])


@pytest.mark.parametrize("name", LOSSES)
def test_the_table_says_which_losses_are_means_over_tiles(name):
    loss, rng = LOSSES[name].make(), np.random.default_rng(0)
    labels = np.stack([np.zeros((5, 7), np.int32), rng.integers(0, 2, (5, 7), dtype=np.int32)])
    logits = rng.normal(0, 3, (2, 5, 7, 2)).astype(np.float32)
    whole = float(ops.convert_to_numpy(loss(labels, logits)))
    each = [float(ops.convert_to_numpy(loss(labels[i, None], logits[i, None]))) for i in (0, 1)]
    assert LOSSES[name].mean_over_tiles == (abs(whole - np.mean(each)) < 1e-5)


def test_a_loss_that_several_devices_would_each_have_for_themselves(monkeypatch):
    monkeypatch.setitem(LOSSES, "own", AddedLoss("keras.losses:Dice", "", mean_over_tiles=False))
    assert training_loss({"own": 1.0, "dice": 0.0}).losses[1].name == "dice"
    with pytest.raises(ConfigError, match="loss.own is no mean over tiles.* set devices=one"):
        training_loss({"own": 1.0}, devices=2)
    training_loss({"dice": 1.0, "focal": 1.0}, devices=2)


def test_no_stream_of_random_numbers_is_given_twice():
    from keras_unet.augment.draws import _STREAMS

    assert len(set(_STREAMS.values())) == len(_STREAMS)
    # what a seed draws today stays what it draws
    expected = {"multiply": 7, "brightness": 8, "contrast": 9, "gamma": 10, "gamma_inverted": 11}
    expected |= {"noise": 12, "blur": 13, "low_resolution": 14}
    assert {name: option.stream for name, option in INTENSITY.items()} == expected
