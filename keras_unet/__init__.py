"""The U-Net for Keras (Ronneberger, Fischer, Brox 2015), from raw images to a served model.

Names are imported when they are first used, so that `import keras_unet` costs no TensorFlow import.
It is all that `keras.saving.load_model` needs to open a model of this package, in any order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from keras_unet._lazy import attach
from keras_unet._registration import register
from keras_unet._version import __version__ as __version__

register()  # `keras.saving.load_model` opens this package's files from here on

_MODULES = (
    *("augment", "data", "diffusion", "evaluation", "explorer", "geometry", "inference"),
    *("losses", "metrics", "models", "serving", "training"),
)
_NAMES = {
    "build_unet": "models.unet",
    "compare": "evaluation.comparison",
    "convert": "serving.formats",
    "cross_validate": "training.cross_validation",
    "evaluate": "evaluation.scoring",
    "explore": "explorer.server",
    "export": "serving.publish",
    "load_model": "models.keras_file",
    "plan": "training.planning.plan",
    "plot_unet": "models.plot",
    "predict": "inference.predictor",
    "save_model": "models.keras_file",
    "train": "training.run",
    "weight_map": "weight_maps",
    **dict.fromkeys(_MODULES, ""),
}

__getattr__, __dir__, __all__ = attach(__name__, _NAMES)

if TYPE_CHECKING:
    from keras_unet.evaluation.comparison import compare as compare
    from keras_unet.evaluation.scoring import evaluate as evaluate
    from keras_unet.explorer.server import explore as explore
    from keras_unet.inference.predictor import predict as predict
    from keras_unet.models.keras_file import load_model as load_model
    from keras_unet.models.keras_file import save_model as save_model
    from keras_unet.models.plot import plot_unet as plot_unet
    from keras_unet.models.unet import build_unet as build_unet
    from keras_unet.serving.formats import convert as convert
    from keras_unet.serving.publish import export as export
    from keras_unet.training.cross_validation import cross_validate as cross_validate
    from keras_unet.training.planning.plan import plan as plan
    from keras_unet.training.run import train as train
    from keras_unet.weight_maps import weight_map as weight_map
