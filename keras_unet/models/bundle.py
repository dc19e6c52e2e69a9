"""A trained network together with what must travel with it, in one `.keras` file.

A `.keras` file is a zip archive. The card is one more member of it, so
`keras.models.load_model` still opens the file (after an import of this module, which registers the
layers), and the normalisation can't be left behind.
"""

from __future__ import annotations

import os
import shutil
import zipfile
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import keras
from pydantic import ValidationError

import keras_unet.losses  # a compiled network names its loss, metrics and layers
import keras_unet.metrics
import keras_unet.models.blocks
import keras_unet.models.cropping  # noqa: F401
from keras_unet.disk import rename, sync_file
from keras_unet.errors import DataError
from keras_unet.models.card import ModelCard as ModelCard
from keras_unet.remote_path import RemotePath, as_path, fetched, local_path

CARD = "keras_unet.json"
_UNFINISHED = ".writing-"
_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError)  # by the zip archive


class TrainedModel(NamedTuple):
    """A network and its card."""

    network: keras.Model
    card: ModelCard


def save_model(model: TrainedModel, path: str | Path) -> Path:
    """Writes `path` (.keras) whole or not at all: beside it first, synced, then renamed."""
    path = local_path(path)
    own = path.parent / f"{_UNFINISHED}{path.stem}-{os.getpid()}"
    own.mkdir(parents=True, exist_ok=True)  # Keras may write further files beside the model
    beside = own / path.with_suffix(".keras").name
    try:
        model.network.save(beside)
        with zipfile.ZipFile(beside, "a") as archive:
            archive.writestr(CARD, model.card.model_dump_json(indent=1))
        sync_file(beside)
        rename(beside, path)
    finally:
        shutil.rmtree(own, ignore_errors=True)
    return path


def clear_unfinished(folder: str | Path) -> None:
    """Removes what killed processes left of `save_model` in a folder that nobody else writes to."""
    for path in Path(folder).glob(f"{_UNFINISHED}*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)


def model_file(path: str | Path) -> Path:
    """The `.keras` file of what `load_model` takes.

    Raises:
        DataError: it isn't there.
    """
    file = Path(path) / "best.keras" if Path(path).is_dir() else Path(path)
    if not file.is_file():
        raise DataError(f"{file}: no trained model here; expected a run folder or a .keras file")
    return file


def load_model(path: str | Path) -> TrainedModel:
    """Loads a trained model, in safe mode, to compute in float32.

    Args:
        path: a `.keras` file that `train` wrote, or a run folder (its `best.keras`); local, or
            remote (gs://…).

    Raises:
        DataError: no such file, no Keras model, or a model that carries no card.
        RemoteError: a remote file cannot be read.
    """
    place = as_path(path)
    if isinstance(place, RemotePath) and place.is_dir():
        place = place / "best.keras"
    with fetched(place) as local:
        file = model_file(local)
        card = read_card(file)
        try:
            network = keras.models.load_model(file, compile=False, safe_mode=True)
        except (OSError, ValueError, TypeError, KeyError, *_DAMAGED) as error:
            raise DataError(f"{file}: Keras cannot load it safely ({error})") from error
        return TrainedModel(in_float32(network), card)


def read_card(file: Path) -> ModelCard:
    """The card of a `.keras` file, without its network.

    Raises:
        DataError: no such file, no Keras model, or a model that carries no card.
    """
    file = model_file(file)
    try:
        with zipfile.ZipFile(file) as archive:
            if CARD not in archive.namelist():
                raise DataError(
                    f"{file}: a file without {CARD}, so its normalisation is unknown; load it "
                    "with keras.models.load_model and call predict(model, image, normalization=…)"
                )
            return ModelCard.model_validate_json(archive.read(CARD))
    except (OSError, ValidationError, *_DAMAGED) as error:
        raise DataError(f"{file}: not a model file of keras_unet ({error})") from error


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
