"""What a trained network carries with it; read without TensorFlow."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

from keras_unet.data.label_rule import LabelMapping
from keras_unet.data.normalization import Normalization


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
