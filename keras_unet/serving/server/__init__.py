"""Server of TensorFlow Serving's gRPC and REST protocol, without its binary."""

from keras_unet.keras_backend import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
