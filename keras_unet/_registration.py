"""Registration: Keras finds this package's classes in saved models, in whatever order of imports.

Keras looks a saved class up by its registered name and never imports a module for it. To import
ours with `import keras_unet` would cost TensorFlow's import, so that a stand-in is registered for
each; it imports the class when a model file asks for it, and the class then takes its own place.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from keras_unet.keras_backend import around_import

# Registered name -> module and class: what the decorators say of modules that are not imported yet.
CLASSES = {
    "AdamW": "training.step.FusedAdamW",  # its name until 0.3
    "Attention": "diffusion.attention.Attention",
    "Augment": "augment.augment.Augment",
    "Autoencoder": "diffusion.autoencoder.Autoencoder",
    "BatchNormalization": "models.blocks.FusedBatchNormalization",
    "BilinearUpSampling2D": "models.blocks.BilinearUpSampling2D",
    "CropLike": "models.blocks.CropLike",
    "Cropping2D": "models.blocks.SlicedCropping2D",
    "DiceLoss": "losses.dice.Dice",
    "DiceScore": "metrics.Dice",
    "DiffusionModel": "diffusion.model.DiffusionModel",
    "DiffusionUNet": "diffusion.unet.DiffusionUNet",
    "Downsample": "diffusion.blocks.Downsample",
    "EmbeddingMLP": "diffusion.blocks.EmbeddingMLP",
    "FocalLoss": "losses.cross_entropy.Focal",
    "FusedAdamW": "training.step.FusedAdamW",
    "GroupNorm": "diffusion.blocks.GroupNorm",
    "IoU": "metrics.IoU",
    "JoinAdded": "diffusion.unet.JoinAdded",
    "LegalSize": "models.blocks.LegalSize",
    "MeanIoU": "metrics.MeanIoU",
    "PixelAccuracy": "metrics.PixelAccuracy",
    "PixelError": "metrics.PixelError",
    "Pool": "diffusion.text.Pool",
    "ResidualBlock": "diffusion.blocks.ResidualBlock",
    "SelfAttentionBlock": "diffusion.attention.SelfAttentionBlock",
    "Sinusoid": "diffusion.blocks.Sinusoid",
    "SpatialTransformer": "diffusion.attention.SpatialTransformer",
    "SumLoss": "losses.sum.Sum",
    "TextBlock": "diffusion.text.TextBlock",
    "TextEncoder": "diffusion.text.TextEncoder",
    "TokenEmbeddings": "diffusion.text.TokenEmbeddings",
    "TransformerBlock": "diffusion.attention.TransformerBlock",
    "Upsample": "diffusion.blocks.Upsample",
    "WeightedCrossEntropy": "losses.cross_entropy.WeightedCrossEntropy",
}
PACKAGE = "keras_unet"


class StandIn:
    """What Keras finds under a registered name until the class itself is imported."""

    def __init__(self, path: str) -> None:
        self._module, _, self.__name__ = f"{PACKAGE}.{path}".rpartition(".")

    def from_config(self, config: dict[str, Any]) -> Any:
        return getattr(importlib.import_module(self._module), self.__name__).from_config(config)


def register() -> None:
    """Tells Keras of this package's classes: now if it is imported, else as soon as it is."""
    keras = sys.modules.get("keras")
    if keras is None or not hasattr(keras, "saving"):  # or only half imported
        around_import("keras", _registering)
    else:
        _stand_in(keras)


@contextmanager
def _registering() -> Iterator[None]:
    yield
    _stand_in(sys.modules["keras"])


def _stand_in(keras: ModuleType) -> None:
    known = keras.saving.get_custom_objects()
    for name, path in CLASSES.items():
        known.setdefault(f"{PACKAGE}>{name}", StandIn(path))
