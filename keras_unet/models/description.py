"""`describe_model`: what a model takes and gives, and what its card says."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from keras_unet import geometry
from keras_unet.models.bundle import Model, Stated, model_file, trained_model
from keras_unet.models.card import ModelCard
from keras_unet.models.unet import Structure, structure
from keras_unet.remote_path import as_path


class ModelDescription(BaseModel):
    """A trained network: its layers, the smallest sizes that it takes itself, and its card."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bytes: int | None  # of its file; None for a model in memory or elsewhere (gs://…)
    parameters: int
    network: Structure
    sizes: tuple[tuple[int, int], ...]  # the first legal inputs and their outputs; (): any
    card: ModelCard


def describe_model(model: Model, *, normalization: Stated = None) -> ModelDescription:
    """Describes any model of `build_unet`, or the file that holds it.

    Raises:
        DataError: no model at that path. ConfigError: see `trained_model`.
    """
    network, card = trained_model(model, normalization=normalization)
    form = structure(network)
    first = geometry.input_size(1, form.depth)
    legal = [first + i * geometry.stride(form.depth) for i in range(3)]
    return ModelDescription(
        bytes=_size(model) if isinstance(model, (str, Path)) else None,
        parameters=network.count_params(),
        network=form,
        sizes=tuple((n, geometry.output_size(n, form.depth)) for n in legal)
        if form.padding == "valid"
        else (),
        card=card,
    )


def _size(model: str | Path) -> int | None:
    place = as_path(model)
    return model_file(place).stat().st_size if isinstance(place, Path) else None
