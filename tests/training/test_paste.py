"""Training on images composed by copy-paste too: `paste`."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from keras_unet.data.label_rule import LabelMapping
from keras_unet.data.synthetic import write_dataset
from keras_unet.errors import ConfigError
from keras_unet.training.build import with_composed
from keras_unet.training.config import load_config
from keras_unet.training.run import train

SMALL = [
    *("model.filters=2", "model.depth=2", "model.padding=same", "tile=32", "steps=2"),
    *("steps_per_epoch=2", "augment=flips", "data.label_kind=instances", "name=run"),
]


def test_a_run_draws_from_composed_images_and_records_its_own(tmp_path):
    data = write_dataset(tmp_path / "cells", train=2, val=1, size=(64, 64), seed=0)
    where = {"images": data / "train", "validation": data / "val"}
    said = io.StringIO()
    config = load_config(None, [*SMALL, "paste=1.5", f"output={tmp_path}"], data=where)
    result = train(config, Console(file=said, width=200))
    assert "3 more images" in said.getvalue()
    record = json.loads((result.folder / "run.json").read_text())
    assert len(record["training"]) == 2  # what is on the disk, which a resumed run needs again
    assert record["config"]["paste"] == 1.5


def test_only_objects_can_be_pasted():
    config = load_config(None, ["paste=1"], data={"images": "cells"})
    mapping = LabelMapping(kind="semantic", values=(0, 255))
    with pytest.raises(ConfigError, match=r"paste=1 pastes objects.*instances"):
        with_composed(config, [], mapping, Console(file=io.StringIO()))
    with pytest.raises(ConfigError, match="paste"):
        load_config(None, ["paste=-1"], data={"images": "cells"})
