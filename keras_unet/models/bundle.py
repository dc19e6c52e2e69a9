"""A trained network together with what must travel with it, in one `.keras` file.

A `.keras` file is a zip archive. The card is one more member of it, so plain
`keras.models.load_model` still opens the file, and the normalisation can't be left behind.
"""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import keras
from pydantic import BaseModel, ConfigDict, ValidationError

import keras_unet.losses  # a compiled network names its loss, metrics and layers
import keras_unet.metrics
import keras_unet.models.blocks  # noqa: F401
from keras_unet.data.label_rule import LabelMapping
from keras_unet.data.normalization import Normalization
from keras_unet.errors import DataError

CARD = "keras_unet.json"


class ModelCard(BaseModel):
    """What a network was trained on and how its input is prepared; stored with the weights."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = 1
    name: str
    classes: tuple[str, ...]
    normalization: Normalization
    labels: LabelMapping
    image_dtype: str
    separation: int = 2  # width in pixels of the line between touching cells, see `scored_classes`
    created: str
    versions: dict[str, str]
    config: dict[str, Any]
    data: dict[str, Any]
    metrics: dict[str, float]


class TrainedModel(NamedTuple):
    """A network and its card."""

    network: keras.Model
    card: ModelCard


def save_model(model: TrainedModel, path: str | Path) -> Path:
    """Writes `path` (.keras) whole or not at all: beside it first, synced, then renamed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.stem}-{os.getpid()}.keras")
    try:
        model.network.save(beside)
        with zipfile.ZipFile(beside, "a") as archive:
            archive.writestr(CARD, model.card.model_dump_json(indent=1))
        with beside.open("rb") as file:
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    return path


def load_model(path: str | Path) -> TrainedModel:
    """Loads a trained model, in safe mode, to compute in float32.

    Args:
        path: a `.keras` file that `train` wrote, or a run folder (its `best.keras`).

    Raises:
        DataError: no such file, no Keras model, or a model that carries no card.
    """
    path = Path(path)
    file = path / "best.keras" if path.is_dir() else path
    if not file.is_file():
        raise DataError(f"{path}: no trained model here; expected a run folder or a .keras file")
    try:
        with zipfile.ZipFile(file) as archive:
            if CARD not in archive.namelist():
                raise DataError(
                    f"{file}: a file without {CARD}, so its normalisation is unknown; load it "
                    "with keras.models.load_model and call predict(model, image, normalization=…)"
                )
            card = ModelCard.model_validate_json(archive.read(CARD))
    except (zipfile.BadZipFile, OSError, ValidationError) as error:
        raise DataError(f"{file}: not a model file of keras_unet ({error})") from error
    try:
        network = keras.models.load_model(file, compile=False, safe_mode=True)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DataError(f"{file}: Keras cannot load it safely ({error})") from error
    return TrainedModel(in_float32(network), card)


def in_float32(network: keras.Model) -> keras.Model:
    """The same network computing in float32, whatever policy it was trained under."""
    if all(layer.compute_dtype == "float32" for layer in network.layers):
        return network

    def plain(node: Any) -> Any:
        if isinstance(node, dict):
            return {k: "float32" if k == "dtype" else plain(v) for k, v in node.items()}
        return [plain(v) for v in node] if isinstance(node, (list, tuple)) else node

    twin = type(network).from_config(plain(network.get_config()))
    twin.set_weights(network.get_weights())
    return twin
