"""The U-Net for Keras (Ronneberger, Fischer, Brox 2015), from raw images to a served model.

Names are imported when they are first used, so that `import keras_unet` costs no TensorFlow import;
`__init__.pyi` beside each package's `__init__.py` lists them. It is all that
`keras.saving.load_model` needs to open a model of this package, in any order.
"""

from keras_unet._version import __version__ as __version__
from keras_unet.keras_backend import attach_stub, register

register()  # `keras.saving.load_model` opens this package's files from here on

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
