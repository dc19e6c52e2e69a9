"""ImageExampleGen: from folders and manifests of labelled images to checked TFRecords.

Names are imported when they are first used: Beam's workers need the modules, but not TFX.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_NAMES = {"DeadLetters": "component", "ExampleOptions": "options", "ImageExampleGen": "component"}
__all__ = ["DeadLetters", "ExampleOptions", "ImageExampleGen"]

if TYPE_CHECKING:
    from pipelines.examples.component import DeadLetters as DeadLetters
    from pipelines.examples.component import ImageExampleGen as ImageExampleGen
    from pipelines.examples.options import ExampleOptions as ExampleOptions


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_NAMES[name]}"), name)
