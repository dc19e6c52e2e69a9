"""Command line `keras-unet`: one small file a command, no logic of its own.

TensorFlow is imported inside the commands, so that `--help` answers at once.
"""

from keras_unet.cli.app import main
from keras_unet.cli.options import command

__all__ = ["command", "main"]
