"""Random augmentation of image, label and weight in one resampling; see `Augment`."""

from keras_unet.augment.augment import Augment, dense_warp, grid_displacement
from keras_unet.augment.draws import sample_seeds
from keras_unet.augment.settings import PRESETS, AugmentSettings, make_settings, preset_settings

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
