"""A page on which a person sees a U-Net at work: feature maps, one pixel's numbers, learning."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keras_unet._lazy import attach

_NAMES = {"Explorer": "server", "Session": "server", "explore": "server"}

__getattr__, __dir__, __all__ = attach(__name__, _NAMES)

if TYPE_CHECKING:
    from keras_unet.explorer.server import Explorer as Explorer
    from keras_unet.explorer.server import Session as Session
    from keras_unet.explorer.server import explore as explore
