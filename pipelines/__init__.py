"""TFX pipeline around keras_unet: from raw images to a validated version in saved_models/."""

from keras_unet.keras_backend import use_tensorflow

use_tensorflow()  # before anything imports Keras, in each process of a run
