"""Losses for dense prediction."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keras_unet._lazy import attach

_NAMES = {
    "Dice": "dice",
    "Focal": "cross_entropy",
    "LOSSES": "table",
    "Sum": "sum",
    "WeightedCrossEntropy": "cross_entropy",
}

__getattr__, __dir__, __all__ = attach(__name__, _NAMES)

if TYPE_CHECKING:
    from keras_unet.losses.cross_entropy import Focal as Focal
    from keras_unet.losses.cross_entropy import WeightedCrossEntropy as WeightedCrossEntropy
    from keras_unet.losses.dice import Dice as Dice
    from keras_unet.losses.sum import Sum as Sum
    from keras_unet.losses.table import LOSSES as LOSSES
