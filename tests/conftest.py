"""Shared fixtures: where the real data and the oracles are, and quiet TensorFlow logs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("MPLBACKEND", "Agg")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real data and reference values, which are not part of this project."""
    default = Path(__file__).resolve().parents[2] / "shared"
    folder = Path(os.environ.get("KERAS_UNET_SHARED", default))
    if not folder.is_dir():
        pytest.skip(f"real data not found at {folder}: set KERAS_UNET_SHARED")
    return folder


@pytest.fixture
def trained():
    """A small network with random weights and its card: what `train` would return."""
    return make_trained()


def make_trained(
    method: str = "image", padding: str = "valid", channels: int = 1, classes: int = 2
):
    import keras
    import numpy as np

    from keras_unet.data import LabelRule, Normalization
    from keras_unet.models import ModelCard, TrainedModel, build_unet

    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 255, (30, 40, channels), dtype=np.uint8)]
    network = build_unet(
        (None, None, channels),
        classes,
        filters=4,
        depth=2,
        padding=padding,
        normalization="batch",
        dtype="mixed_bfloat16",
    )
    card = ModelCard(
        name="test",
        classes=("background", "cell", "border")[:classes],
        normalization=Normalization.fit(method, images),
        labels=LabelRule().resolve(range(classes)),
        image_dtype="uint8",
        created="2026-01-01T00:00:00+00:00",
        versions={},
        config={},
        data={},
        metrics={"val_mean_dice": 0.5},
    )
    return TrainedModel(network, card)


def of_instances(trained, **decoding):
    """The same network as one of instance labels, whose objects are found so."""
    from keras_unet.data import LabelRule
    from keras_unet.models import Decoding

    labels = LabelRule(kind="instances").resolve(range(9))
    found = {"labels": labels, "objects": Decoding(**decoding)}
    return trained._replace(card=trained.card.model_copy(update=found))
