"""Keras's backend: which it is, TensorFlow kept quiet, names and saved classes found in time.

Networks, losses and metrics take any backend, the rest takes TensorFlow.
"""

from __future__ import annotations

import faulthandler
import importlib
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import lazy_loader

from keras_unet.errors import ConfigError

_CHOSEN_BY = "KERAS_BACKEND or the backend of ~/.keras/keras.json"


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
            f"{what} needs TensorFlow, but Keras runs on {found} here ({_CHOSEN_BY}): set "
            "KERAS_BACKEND=tensorflow before Keras is imported"
        )


def missing_backend(error: ModuleNotFoundError) -> ConfigError | None:
    """What to say where Keras's backend is not installed; None if something else is missing."""
    name = (error.name or "").partition(".")[0]
    if name not in ("jax", "torch", "openvino", "tensorflow"):
        return None
    return ConfigError(
        f"{name} is not installed, and Keras is to run on it ({_CHOSEN_BY}): install it, or set "
        "KERAS_BACKEND to a backend that is, before Keras is imported"
    )


def attach_stub(
    package: str, file: str
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """`__getattr__`, `__dir__` and `__all__` of a package: the names in its `__init__.pyi`.

    Each is imported when it is first used, see `lazy_loader.attach_stub`; an import that fails for
    want of Keras's backend raises the ConfigError of `missing_backend`.
    """
    load, names, listed = lazy_loader.attach_stub(package, file)

    def __getattr__(name: str) -> Any:
        try:
            return load(name)
        except ModuleNotFoundError as error:
            raise missing_backend(error) or error from None

    return __getattr__, names, listed


def around_import(name: str, context: Callable[[], AbstractContextManager[Any]]) -> None:
    """The top-level module `name`, not imported yet, is run within `context()`.

    Who only looks for it (`importlib.util.find_spec`) finds it as before. An import that fails may
    be tried again, with the context around it.
    """
    sys.meta_path.insert(0, _Finder(name, context))


class _Finder(MetaPathFinder):
    """Finds the module as Python would, and goes once it was imported."""

    def __init__(self, name: str, context: Callable[[], AbstractContextManager[Any]]) -> None:
        self._name, self._context = name, context

    def find_spec(
        self, name: str, path: Any = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != self._name:
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        found = (finder.find_spec(name, path, target) for finder in others)
        spec = next((spec for spec in found if spec is not None), None)
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                with self._context():
                    run(module)
                if self in sys.meta_path:
                    sys.meta_path.remove(self)

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


LEVEL = "TF_CPP_MIN_LOG_LEVEL"
# "I0000 00:00:1796037703.612113 7542 port.cc:153] …" and "2026-11-30 12:00:00.1: I tensorflow/…"
_NOTICE = re.compile(
    rb"([IWEF])\d{4} [\d:.]+ +\d+ \S+:\d+\] |\d{4}-\d\d-\d\d [\d:.]+: ([IWEF]) |"
    rb"WARNING: All log messages before absl::InitializeLog\(\)|INFO: Created TensorFlow Lite|"
    rb"fully_quantize: "  # TensorFlow Lite's converter, to int8
)


def quiet_tensorflow() -> None:
    """From now on TensorFlow's C++ code says only what would end the process.

    TF_CPP_MIN_LOG_LEVEL, if set, wins. TensorFlow 2.21 heeds it only after its import: what it
    writes during the import is held back here, whenever that comes.
    """
    os.environ.setdefault(LEVEL, "3")
    if "tensorflow" not in sys.modules:
        around_import("tensorflow", without_notices)


@contextmanager
def without_notices() -> Iterator[None]:
    """Holds back what goes to standard error, and in the end hands on what is no notice below
    TF_CPP_MIN_LOG_LEVEL; that is nothing where the level is not set, as in a script.

    The file descriptor is turned, since the notices come from C++. Should the process die of a
    signal meanwhile, the terminal is told where.
    """
    if _log_level() == 0:
        yield
        return
    try:
        sys.stderr.flush()
        terminal = os.dup(2)
    except (AttributeError, OSError):  # standard error is closed
        yield
        return
    watched = faulthandler.is_enabled()
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        if not watched:
            faulthandler.enable(terminal)
        try:
            yield
        finally:
            if not watched:
                faulthandler.disable()
            sys.stderr.flush()
            os.dup2(terminal, 2)
            os.close(terminal)
            held.seek(0)
            os.write(2, b"".join(line for line in held if not _is_notice(line)))


def _is_notice(line: bytes) -> bool:
    """Is it a line of TensorFlow's log below the level that is asked for?"""
    found = _NOTICE.match(line)
    if found is None:
        return False
    severity = (found[1] or found[2] or b"I").decode()
    return "IWEF".index(severity) < _log_level()


def _log_level() -> int:
    level = os.environ.get(LEVEL, "")
    return int(level) if level.isdecimal() else 0


# Keras looks a saved class up by its registered name and never imports a module for it. To import
# ours with `import keras_unet` would cost TensorFlow's import, so that a stand-in is registered for
# each; it imports the class when a model file asks for it, and the class then takes its own place.
# Registered name -> module and class: what the decorators say of modules that are not imported yet.
CLASSES = {
    "AdamW": "training.step.FusedAdamW",  # its name until 0.3
    "Attention": "diffusion.attention.Attention",
    "Augment": "augment.augment.Augment",
    "Autoencoder": "diffusion.autoencoder.Autoencoder",
    "BatchNormalization": "models.blocks.FusedBatchNormalization",
    "BilinearUpSampling2D": "models.blocks.BilinearUpSampling2D",
    "CropLike": "models.blocks.CropLike",
    "Cropping2D": "models.blocks.SlicedCropping2D",
    "DiceLoss": "losses.dice.Dice",
    "DiceScore": "metrics.Dice",
    "DiffusionModel": "diffusion.model.DiffusionModel",
    "DiffusionUNet": "diffusion.unet.DiffusionUNet",
    "Downsample": "diffusion.blocks.Downsample",
    "EmbeddingMLP": "diffusion.blocks.EmbeddingMLP",
    "FocalLoss": "losses.cross_entropy.Focal",
    "FusedAdamW": "training.step.FusedAdamW",
    "GroupNorm": "diffusion.blocks.GroupNorm",
    "IoU": "metrics.IoU",
    "JoinAdded": "diffusion.unet.JoinAdded",
    "LegalSize": "models.blocks.LegalSize",
    "MeanIoU": "metrics.MeanIoU",
    "PixelAccuracy": "metrics.PixelAccuracy",
    "PixelError": "metrics.PixelError",
    "Pool": "diffusion.text.Pool",
    "ResidualBlock": "diffusion.blocks.ResidualBlock",
    "SelfAttentionBlock": "diffusion.attention.SelfAttentionBlock",
    "Sinusoid": "diffusion.blocks.Sinusoid",
    "SpatialTransformer": "diffusion.attention.SpatialTransformer",
    "SumLoss": "losses.sum.Sum",
    "TextBlock": "diffusion.text.TextBlock",
    "TextEncoder": "diffusion.text.TextEncoder",
    "TokenEmbeddings": "diffusion.text.TokenEmbeddings",
    "TransformerBlock": "diffusion.attention.TransformerBlock",
    "Upsample": "diffusion.blocks.Upsample",
    "WeightedCrossEntropy": "losses.cross_entropy.WeightedCrossEntropy",
}
PACKAGE = "keras_unet"


class StandIn:
    """What Keras finds under a registered name until the class itself is imported."""

    def __init__(self, path: str) -> None:
        self._module, _, self.__name__ = f"{PACKAGE}.{path}".rpartition(".")

    def from_config(self, config: dict[str, Any]) -> Any:
        return getattr(importlib.import_module(self._module), self.__name__).from_config(config)


def register() -> None:
    """Tells Keras of this package's classes: now if it is imported, else as soon as it is."""
    keras = sys.modules.get("keras")
    if keras is None or not hasattr(keras, "saving"):  # or only half imported
        around_import("keras", _registering)
    else:
        _stand_in(keras)


@contextmanager
def _registering() -> Iterator[None]:
    yield
    _stand_in(sys.modules["keras"])


def _stand_in(keras: ModuleType) -> None:
    known = keras.saving.get_custom_objects()
    for name, path in CLASSES.items():
        known.setdefault(f"{PACKAGE}>{name}", StandIn(path))
