"""Random augmentation of image, label and weight in one resampling; see `Augment`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keras_unet._lazy import attach

_NAMES = {
    "PRESETS": "settings",
    "Augment": "augment",
    "AugmentSettings": "settings",
    "dense_warp": "resample",
    "grid_displacement": "field",
    "make_settings": "settings",
    "preset_settings": "settings",
    "sample_seeds": "draws",
}

__getattr__, __dir__, __all__ = attach(__name__, _NAMES)

if TYPE_CHECKING:
    from keras_unet.augment.augment import Augment as Augment
    from keras_unet.augment.draws import sample_seeds as sample_seeds
    from keras_unet.augment.field import grid_displacement as grid_displacement
    from keras_unet.augment.resample import dense_warp as dense_warp
    from keras_unet.augment.settings import PRESETS as PRESETS
    from keras_unet.augment.settings import AugmentSettings as AugmentSettings
    from keras_unet.augment.settings import make_settings as make_settings
    from keras_unet.augment.settings import preset_settings as preset_settings
