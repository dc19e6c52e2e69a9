"""Images and labels: read, checked, normalised, stored as records; the synthetic data set.

Names are imported when they are first used: a label rule costs no image library.
"""

from keras_unet.keras_backend import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
