"""Random augmentation of image, label and weight in one resampling; see `Augment`."""

from keras_unet.augment.layer import Augment
from keras_unet.augment.presets import PRESETS, preset_settings
from keras_unet.augment.seeds import sample_seeds
from keras_unet.augment.settings import AugmentSettings, make_settings
from keras_unet.augment.warp import dense_warp, grid_displacement

__all__ = [
    "PRESETS",
    "Augment",
    "AugmentSettings",
    "dense_warp",
    "grid_displacement",
    "make_settings",
    "preset_settings",
    "sample_seeds",
]
