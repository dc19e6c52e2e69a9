"""The U-Net for Keras (Ronneberger, Fischer, Brox 2015), from raw images to a served model.

Names are imported when they are first used, so that `import keras_unet` costs no TensorFlow import.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from keras_unet._version import __version__

_MODULES = {"augment", "data", "evaluation", "geometry", "inference", "losses", "metrics"}
_MODULES |= {"models", "serving", "training"}
_NAMES = {
    "build_unet": "keras_unet.models.unet",
    "evaluate": "keras_unet.evaluation.scoring",
    "export": "keras_unet.serving.publish",
    "load_model": "keras_unet.models.bundle",
    "predict": "keras_unet.inference.prediction",
    "train": "keras_unet.training.fit",
    "weight_map": "keras_unet.weight_maps",
}

__all__ = ["__version__", *sorted(_MODULES), *sorted(_NAMES)]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        value = getattr(importlib.import_module(_NAMES[name]), name)
    elif name in _MODULES:
        value = importlib.import_module(f"keras_unet.{name}")
    else:
        raise AttributeError(f"module 'keras_unet' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


if TYPE_CHECKING:
    from keras_unet.evaluation.scoring import evaluate as evaluate
    from keras_unet.inference.prediction import predict as predict
    from keras_unet.models.bundle import load_model as load_model
    from keras_unet.models.unet import build_unet as build_unet
    from keras_unet.serving.publish import export as export
    from keras_unet.training.fit import train as train
    from keras_unet.weight_maps import weight_map as weight_map
