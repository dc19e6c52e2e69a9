"""Losses for dense prediction."""

from keras_unet.keras_backend import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
