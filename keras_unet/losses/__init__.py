"""Losses for dense prediction; importing this registers them, so that saved models load."""

from keras_unet.losses.cross_entropy import Focal, WeightedCrossEntropy
from keras_unet.losses.dice import Dice
from keras_unet.losses.sum import Sum

__all__ = ["Dice", "Focal", "Sum", "WeightedCrossEntropy"]
