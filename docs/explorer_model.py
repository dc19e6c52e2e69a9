"""Trains the small network that `keras-unet explore` opens with: `python docs/explorer_model.py`.

The paper's shape with 4 instead of 64 filters, on made-up cells. It is trained with batch
normalization, which is then folded into kernels and biases: the answers stay the same, and the
network has the paper's layers only. Weights are stored in float16, so that the file stays below
300 kB. It takes about ten minutes on two cores.
"""

from __future__ import annotations

import argparse
import tempfile
import zipfile
from pathlib import Path

import keras
import numpy as np

import keras_unet
from keras_unet.data.synthetic import write_dataset
from keras_unet.models.keras_file import TrainedModel
from keras_unet.models.model_card import CARD
from keras_unet.training.config import make_config

FILTERS, DEPTH = 4, 4
TARGET = Path(keras_unet.__file__).parent / "explorer" / "assets" / "cells.keras"


def train(minutes: float, seed: int = 1) -> TrainedModel:
    """The trained network and its card, which names none of this machine's folders."""
    with tempfile.TemporaryDirectory() as folder:
        data = write_dataset(Path(folder) / "cells", train=48, val=6, seed=seed)
        config = make_config(
            {
                "data": {
                    "images": data / "train",
                    "validation": data / "val",
                    "label_kind": "instances",
                    "class_names": ["background", "cell"],
                },
                "model": {"filters": FILTERS, "depth": DEPTH},
                "steps_per_epoch": 50,
                "minutes": minutes,
                "output": Path(folder) / "runs",
                "seed": seed,
            }
        )
        result = keras_unet.train(config)
        network, card = result.model
        card = card.model_copy(update={"name": "made-up cells", "config": {}, "data": {}})
        return TrainedModel(network, card)


def folded(network: keras.Model) -> keras.Model:
    """The same network without its batch normalization: each is a factor and an offset."""
    form = keras_unet.models.structure(network)
    plain = keras_unet.build_unet(
        (None, None, form.channels),
        form.num_classes,
        filters=FILTERS,
        depth=form.depth,
        padding=form.padding,
        upsampling=form.upsampling,
        dtype="float16",
    )
    names = {layer.name for layer in network.layers}
    for layer in plain.layers:
        if not layer.weights:
            continue
        weights = network.get_layer(layer.name).get_weights()
        if f"{layer.name}_norm" in names:
            norm = network.get_layer(f"{layer.name}_norm")
            gamma, beta, mean, variance = norm.get_weights()
            factor = gamma / np.sqrt(variance + norm.epsilon)
            weights = [weights[0] * factor, beta - mean * factor]
        layer.set_weights(weights)
    return plain


def store(model: TrainedModel, path: Path) -> Path:
    """Writes the network in float16, compressed; it is read back in float32 as any other file."""
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / path.name
        folded(model.network).save(plain)
        with (
            zipfile.ZipFile(plain) as source,
            zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as target,
        ):
            for name in source.namelist():
                target.writestr(name, source.read(name))
            target.writestr(CARD, model.card.model_dump_json())
    return path


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    options = parser.parse_args()
    made = store(train(options.minutes), TARGET)
    print(f"{made}: {made.stat().st_size / 1000:.0f} kB")
