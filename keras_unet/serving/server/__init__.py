"""The embedded server: TensorFlow Serving's gRPC and REST protocol without its binary."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keras_unet._lazy import attach

_NAMES = {
    "EmbeddedServer": "embedded",
    "Limits": "settings",
    "ServerSettings": "settings",
}

__getattr__, __dir__, __all__ = attach(__name__, _NAMES)

if TYPE_CHECKING:
    from keras_unet.serving.server.embedded import EmbeddedServer as EmbeddedServer
    from keras_unet.serving.server.settings import Limits as Limits
    from keras_unet.serving.server.settings import ServerSettings as ServerSettings
