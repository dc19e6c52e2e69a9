"""Which backend Keras runs on: networks, losses and metrics take any, the rest takes TensorFlow."""

from __future__ import annotations

import os

from keras_unet.errors import ConfigError

_SET = "KERAS_BACKEND or the backend of ~/.keras/keras.json"


def use_tensorflow() -> None:
    """Before Keras is imported, for a program whose every part needs it."""
    os.environ["KERAS_BACKEND"] = "tensorflow"


def require_tensorflow(what: str) -> None:
    """Ends what would fail deep inside Keras.

    Raises:
        ConfigError: Keras runs on another backend.
    """
    import keras

    found = keras.backend.backend()
    if found != "tensorflow":
        raise ConfigError(
            f"{what} needs TensorFlow, but Keras runs on {found} here ({_SET}): set "
            "KERAS_BACKEND=tensorflow before Keras is imported"
        )


def missing_backend(error: ModuleNotFoundError) -> ConfigError | None:
    """What to say where Keras's backend is not installed; None if something else is missing."""
    name = (error.name or "").partition(".")[0]
    if name not in ("jax", "torch", "openvino", "tensorflow"):
        return None
    return ConfigError(
        f"{name} is not installed, and Keras is to run on it ({_SET}): install it, or set "
        "KERAS_BACKEND to a backend that is, before Keras is imported"
    )
