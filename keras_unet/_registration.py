"""Makes Keras find this package's classes in saved models, whichever of the two is imported first.

Keras looks a saved class up by its registered name and never imports a module for it. To import
ours with `import keras_unet` would cost TensorFlow's import, so that a stand-in is registered for
each; it imports the class when a model file asks for it, and the class then takes its own place.
"""

from __future__ import annotations

import importlib
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

# Registered name -> module and class: what the decorators say of modules that are not imported yet.
CLASSES = {
    "AdamW": "training.adamw.AdamW",
    "Augment": "augment.layer.Augment",
    "BatchNormalization": "models.normalization.BatchNormalization",
    "BilinearUpSampling2D": "models.blocks.BilinearUpSampling2D",
    "CropLike": "models.cropping.CropLike",
    "Cropping2D": "models.cropping.Cropping2D",
    "DiceLoss": "losses.overlap.Dice",
    "DiceScore": "metrics.Dice",
    "FocalLoss": "losses.focal.Focal",
    "IoU": "metrics.IoU",
    "LegalSize": "models.legal_size.LegalSize",
    "MeanIoU": "metrics.MeanIoU",
    "PixelAccuracy": "metrics.PixelAccuracy",
    "PixelError": "metrics.PixelError",
    "SumLoss": "losses.total.Sum",
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
        sys.meta_path.insert(0, _AfterKeras())
    else:
        _stand_in(keras)


def _stand_in(keras: ModuleType) -> None:
    known = keras.saving.get_custom_objects()
    for name, path in CLASSES.items():
        known.setdefault(f"{PACKAGE}>{name}", StandIn(path))


class _AfterKeras(MetaPathFinder):
    """Finds Keras as Python would, and registers the stand-ins at the end of its import."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name != "keras":
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        found = (finder.find_spec(name, path, target) for finder in others)
        spec = next((spec for spec in found if spec is not None), None)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_register(module: ModuleType) -> None:
                execute(module)
                if self in sys.meta_path:
                    sys.meta_path.remove(self)
                _stand_in(module)

            spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec
