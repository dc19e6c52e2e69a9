"""Nuclei of the Data Science Bowl 2018: raw files in, a served version's masks out."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("tfx")

from keras_unet.errors import KerasUnetError
from pipelines import models
from pipelines.config import load_pipeline_config
from pipelines.local import run_local
from pipelines.server_process import serving

pytestmark = [pytest.mark.tfx, pytest.mark.slow]


def test_from_raw_files_to_a_served_mask(shared, tmp_path):
    from keras_unet import predict
    from keras_unet.serving import Client

    data = tmp_path / "data"
    for kind in ("images", "labels"):
        (data / kind).mkdir(parents=True)
        for path in sorted((shared / "data" / "dsb2018_fluo" / "val" / kind).iterdir())[:16]:
            shutil.copyfile(path, data / kind / path.name)
    settings = [
        f"root={tmp_path / 'root'}",
        f"push.folder={tmp_path / 'saved_models'}",
        "name=nuclei",
        f"data.images={data}",
        "data.eval_share=0.3",
        "train.steps=40",
        "train.steps_per_epoch=20",
        "train.tile=188",
        "train.precision=float32",
        "train.model.filters=4",
        "train.model.depth=2",
        'evaluation.thresholds=[{score="mean_dice",at_least=0.3}]',
    ]
    with pytest.raises(KerasUnetError, match="label_kind") as raised:
        run_local(load_pipeline_config(None, settings), print)
    assert "each number is one object" in str(raised.value)

    config = load_pipeline_config(None, [*settings, "data.label_kind=instances"])
    steps = {step.component: step for step in run_local(config, print)}
    pushed = steps["Pusher"].outputs["pushed_model"][0].custom_properties
    version = Path(pushed["pushed_destination"].string_value)
    assert version == tmp_path / "saved_models" / "nuclei" / "1"

    trained = models.load(steps["Trainer"].outputs["model"][0].uri)
    file = sorted((data / "images").iterdir())[0]
    with (
        serving(version.parents[1], tmp_path / "server.log", 300) as addresses,
        Client(f"grpc://{addresses.grpc}", seconds=300) as client,
    ):
        assert [s["state"] for s in client.status("nuclei")] == ["AVAILABLE"]
        (mask,) = client.segment("nuclei", [file.read_bytes()])
    image = np.asarray(Image.open(file))
    options = {"normalization": trained.card.normalization}
    expected = predict(trained.network, image, **options).argmax(-1)
    assert mask.shape == image.shape[:2] and set(np.unique(mask)) <= {0, 255}
    assert np.mean((mask > 0) != (expected > 0)) < 1e-3  # ties of two probabilities apart
