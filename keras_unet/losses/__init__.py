"""Losses for dense prediction; importing this registers them, so that saved models load."""

from keras_unet.losses.cross_entropy import WeightedCrossEntropy
from keras_unet.losses.focal import Focal
from keras_unet.losses.overlap import Dice
from keras_unet.losses.total import Sum

__all__ = ["Dice", "Focal", "Sum", "WeightedCrossEntropy"]
