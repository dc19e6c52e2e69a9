"""Two devices of one machine share each batch: the run is that of one device."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import make_trained
from rich.console import Console

from keras_unet.data.pipeline import tile_requests
from keras_unet.data.synthetic import write_dataset
from keras_unet.errors import ConfigError
from keras_unet.machine import read_cluster
from keras_unet.models import load_model, save_model
from keras_unet.training import load_config, train


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("cells"), train=3, val=1, size=(48, 48), seed=0)


def run(data, output, *runs):
    driver = Path(__file__).with_name("on_two_devices.py")
    command = [sys.executable, str(driver), str(data), str(output), json.dumps(runs)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]


def rows(folder):
    with (folder / "history.csv").open() as file:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]


def weights(folder, name="last.keras"):
    return load_model(folder / name).network.get_weights()


def alike(first, second):
    """The same losses, scores and weights, but for the order of sums."""
    for ours, theirs in zip(rows(first), rows(second), strict=True):
        assert ours.keys() == theirs.keys()
        for name in ours:
            assert ours[name] == pytest.approx(theirs[name], rel=2e-5, abs=2e-6), name
    for ours, theirs in zip(weights(first), weights(second), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=2e-5)


def test_two_devices_take_the_steps_of_one(data, tmp_path):
    """With batch normalization over both."""
    sgd = ["optimizer=sgd", "momentum=0.9", "learning_rate=0.05"]  # Adam magnifies rounding
    run(
        data,
        tmp_path,
        ["name=one", "devices=one", *sgd],
        ["name=two", "devices=all", *sgd],
    )
    one, two = tmp_path / "one", tmp_path / "two"
    assert "2 devices on 1 machine(s)" in (two / "said").read_text()
    assert "devices" not in (one / "said").read_text()
    alike(two, one)
    batch = load_model(two).network.get_layer("down1_conv1_norm")
    assert batch.synchronized is False  # the saved network knows of no devices


@pytest.mark.slow
def test_what_is_frozen_stays_on_both(data, tmp_path):
    """Layers of an ancestor, with the moving averages of batch normalization."""
    file = save_model(make_trained(), tmp_path / "ancestor.keras")
    settings = [f"init={file}", "freeze=contracting", "model.filters=4", "model.depth=2"]
    settings += ["tile=60", "optimizer=sgd", "momentum=0.9", "learning_rate=0.05"]
    run(data, tmp_path, *([*settings, f"name={d}", f"devices={d}"] for d in ("one", "all")))
    alike(tmp_path / "all", tmp_path / "one")
    ours, theirs = (load_model(f).network for f in (tmp_path / "all" / "last.keras", file))
    for layer in theirs.layers:
        pairs = zip(ours.get_layer(layer.name).get_weights(), layer.get_weights(), strict=True)
        same = [np.array_equal(a, b) for a, b in pairs]
        assert all(same) if layer.name.startswith("down") else not any(same[:1]), layer.name


@pytest.mark.slow
def test_all_that_may_differ_between_devices_is_that_of_one(data, tmp_path):
    """What no mean over tiles is: Dice, clipping, gathered gradients, the average, heads.

    Statistics of each device by itself are another run.
    """
    settings = ["loss.dice=1", "accumulate=2", "gradient_clip=0.05", "ema_decay=0.9"]
    settings += ["model.deep_supervision=true", "model.depth=2", "tile=60", "optimizer=nesterov"]
    settings += ["augment_on=accelerator", "oversample=0.5", "learning_rate=0.01"]
    runs = [[*settings, f"name={d}", f"devices={d}"] for d in ("one", "all")]
    apart = [*settings, "name=apart", "devices=all", "sync_batch_norm=false"]
    run(data, tmp_path, *runs, apart)
    alike(tmp_path / "all", tmp_path / "one")
    assert abs(rows(tmp_path / "apart")[0]["loss"] - rows(tmp_path / "one")[0]["loss"]) > 1e-4


@pytest.mark.slow
def test_a_run_on_two_devices_that_is_cut_off_ends_with_the_same_bits(data, tmp_path):
    """With drop-out, whose masks differ between devices, and scaled float16."""
    settings = ["devices=all", "model.dropout=0.3", "precision=float16"]
    cut = [*settings, "name=cut"]
    run(data, tmp_path, [*settings, "name=whole"], [*cut, "until=3"], cut)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert "Going on at step 3" in (cut / "said").read_text()
    assert (whole / "history.csv").read_bytes() == (cut / "history.csv").read_bytes()
    pairs = zip(weights(whole), weights(cut), strict=True)
    assert all(ours.tobytes() == theirs.tobytes() for ours, theirs in pairs)


def test_parts_of_a_batch_are_the_batch():
    entries = np.arange(5, dtype=np.int32)
    options = {"batch_size": 6, "seed": 3, "start": 2}
    whole = list(tile_requests(entries, **options).take(4).as_numpy_iterator())
    parts = [
        list(tile_requests(entries, **options, part=(i, 3)).take(4).as_numpy_iterator())
        for i in range(3)
    ]
    for number, (index, seeds) in enumerate(whole):
        assert index.tolist() == [i for part in parts for i in part[number][0].tolist()]
        assert seeds.tolist() == [s for part in parts for s in part[number][1].tolist()]


def test_what_tf_config_says():
    hosts = '"a:1", "b:1"'
    workers = '{"cluster": {"worker": [%s]}, "task": {"type": "worker", "index": %s}}'
    assert read_cluster("") == (1, 0)
    assert read_cluster("{}") == (1, 0)
    assert read_cluster(workers % (hosts, 1)) == (2, 1)
    assert read_cluster(workers % (hosts, '"1"')) == (2, 1)  # as shells write it
    chief = '{"cluster": {"worker": [%s], "chief": ["c:1"]}, "task": {"type": "%s", "index": 0}}'
    assert read_cluster(chief % (hosts, "chief")) == (3, 0)
    assert read_cluster(chief % (hosts, "worker")) == (3, 1)
    for wrong in (workers % (hosts, 2), workers % (hosts, "null"), "[]", "{", '{"cluster": 1}'):
        with pytest.raises(ConfigError, match=r"TF_CONFIG=.*expected"):
            read_cluster(wrong)
    with pytest.raises(ConfigError, match="cluster has ps, worker"):
        read_cluster((workers % (hosts, 0)).replace("}, ", ', "ps": ["p:1"]}, '))


def test_a_process_that_computes_already_cannot_meet_others(data, tmp_path, monkeypatch):
    import tensorflow as tf

    tf.constant(1)
    monkeypatch.setenv(
        "TF_CONFIG",
        '{"cluster": {"worker": ["localhost:1", "localhost:2"]}, '
        '"task": {"type": "worker", "index": 0}}',
    )
    config = load_config(None, [f"output={tmp_path}"], data={"images": data / "train"})
    with pytest.raises(ConfigError, match="before they could meet"):
        train(config, Console(quiet=True))
