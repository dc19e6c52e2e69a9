"""Explorer: a page on which a network is seen at work, with its feature maps and its numbers."""

from keras_unet.keras_backend import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
