"""Training on records: the same bits as on files; and a normalisation that was fitted elsewhere."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from rich.console import Console

from keras_unet.data import LabelRule, Normalization
from keras_unet.data.pairs import find_pairs
from keras_unet.data.pipeline import border_term
from keras_unet.data.records import encode_example
from keras_unet.data.samples import Border, PairReader
from keras_unet.data.synthetic import write_dataset
from keras_unet.errors import ConfigError, DataError
from keras_unet.training import load_config, train
from keras_unet.training.config import make_config

SMALL = ["model.filters=2", "model.depth=1", "steps=3", "steps_per_epoch=3", "augment=flips"]
SMALL += ["data.label_kind=instances", "precision=float32"]
FITTED = {"method": "dataset", "mean": [101.5], "std": [1 / 3]}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("cells"), train=3, val=1, size=(64, 64), seed=0)


@pytest.fixture(scope="module")
def records(data):
    """The same as shards, in another order, each record with its border term."""
    rule = LabelRule(kind="instances")
    for part in ("train", "val"):
        with PairReader() as reader:
            raws = [reader.read(pair, rule) for pair in find_pairs(data / part)]
        mapping = rule.resolve({v for raw in raws for v in raw.values})
        folder = data / "records" / f"Split-{part}"
        folder.mkdir(parents=True)
        for number, raw in enumerate(reversed(raws)):
            border = Border(border_term(raw.sample(mapping), 5.0, 2), 5.0, 2)
            example = encode_example(raw.pair.name, raw.image, raw.labels, border=border)
            name = folder / f"transformed_examples-0000{number}-of-0000{len(raws)}.gz"
            with tf.io.TFRecordWriter(str(name), "GZIP") as writer:
                writer.write(example)
    return data / "records"


def run(images, validation, output, *settings, **options):
    where = {"images": images, "validation": validation}
    config = load_config(None, [*SMALL, f"output={output}", *settings], data=where)
    return train(config, Console(file=io.StringIO()), **options)


def test_records_train_the_very_network_that_files_train(data, records, tmp_path, monkeypatch):
    on_files = run(data / "train", data / "val", tmp_path / "files")
    monkeypatch.setattr("keras_unet.data.pipeline.border_weights", None)  # the stored one is used
    result = run(records / "Split-train" / "*", records / "Split-val", tmp_path / "records")
    assert result.folder.name.startswith("Split-train-")
    first, second = (r.model.network.get_weights() for r in (on_files, result))
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)
    assert result.evaluation.total == on_files.evaluation.total


def test_a_fitted_normalisation_is_kept_by_config_card_and_resume(records, tmp_path):
    fitted = Normalization.model_validate(FITTED)
    tree = {
        "data": {
            "images": str(records / "Split-train"),
            "validation": str(records / "Split-val"),
            "label_kind": "instances",
            "normalization": fitted,
        },
        "model": {"filters": 2, "depth": 1},
        "steps": 2,
        "steps_per_epoch": 1,
        "output": str(tmp_path),
        "name": "given",
    }
    result = train(make_config(tree), Console(file=io.StringIO()))
    assert result.model.card.normalization == fitted
    kept = load_config(result.folder / "config.toml")
    assert kept.data.normalization == fitted
    again = train(resume=result.folder, console=Console(file=io.StringIO()))
    assert again.model.card.normalization == fitted
    tree["data"]["normalization"] = {**FITTED, "mean": [101.0]}
    with pytest.raises(ConfigError, match="data.normalization.mean: begun with"):
        train(make_config(tree), resume=result.folder)


def test_a_normalisation_of_other_channels_is_refused(records, tmp_path):
    setting = 'data.normalization={method="dataset", mean=[1.0, 2.0, 3.0], std=[1.0, 1.0, 1.0]}'
    with pytest.raises(DataError, match="1 channels; expected 3"):
        run(records / "Split-train", records / "Split-val", tmp_path, setting)
    assert not list(Path(tmp_path).iterdir())
    with pytest.raises(ConfigError, match="data.normalization.*expected|got 'mean'"):
        run(records / "Split-train", records / "Split-val", tmp_path, "data.normalization=mean")
