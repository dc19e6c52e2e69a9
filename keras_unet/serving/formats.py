"""`convert`: the model for other runtimes, each compared with the Keras model on real images."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
import tensorflow as tf

from keras_unet.errors import ConfigError, DataError, ExportError
from keras_unet.inference.prediction import predict, to_classes
from keras_unet.keras_backend import require_tensorflow
from keras_unet.models.bundle import Model, Stated, TrainedModel, trained_model
from keras_unet.remote_path import local_path
from keras_unet.serving import onnx_file, tflite
from keras_unet.serving.graph import Precision, write_saved_model

FORMATS = (*(f"saved-model-{name}" for name in get_args(Precision)), "onnx", *tflite.KINDS)
LARGEST = 512  # pixels a side of what is compared, and of a TFLite model's images by default


class Converted(NamedTuple):
    """One file, and how its probabilities compare with those of the Keras model."""

    name: str
    path: Path
    bytes: int
    seconds: float  # median of an image, after one that is not counted
    largest: float  # difference of a probability
    mean: float
    classes: float  # share of pixels that get another class


def convert(
    model: Model,
    images: Sequence[np.ndarray],
    output: str | Path,
    names: Sequence[str] = ("onnx", "tflite-float16", "tflite-int8"),
    *,
    size: tuple[int, int] | None = None,
    normalization: Stated = None,
    class_names: str | Sequence[str] | None = None,
    progress: Callable[[str], None] | None = None,
) -> list[Converted]:
    """Writes the model in other formats and runs each of them on real images.

    Args:
        model: what `load_model` takes or returns, or any model of `build_unet`.
        images: real ones, as read from their files, [H, W, C] or [H, W]: two or more for int8,
            whose first half calibrates and whose second half is compared.
        output: folder for the files.
        names: of `FORMATS`.
        size: height and width of a TFLite model's images and of what is compared (from the
            middle of each image); None: what all images have, at most 512.
        normalization, class_names: for a model of a script, see `keras_unet.models.trained_model`.
        progress: called with each format's name.

    Returns:
        "keras" first: the Keras model itself; then one for each name.

    Raises:
        ConfigError: an unknown name, or too few or too small images.
        ExportError: a package is missing; says what to install.
    """
    require_tensorflow("convert")
    for name in names:
        if name not in FORMATS:
            raise ConfigError(f"format {name!r}; expected {', '.join(FORMATS)}")
    output = local_path(output)
    trained = trained_model(
        model, normalization=normalization, class_names=class_names, float32=True
    )
    given = [np.atleast_3d(image) for image in images]
    if len(given) < 1 + ("tflite-int8" in names):
        raise ConfigError(f"{len(given)} images; expected one or more, for int8 two or more")
    size = size or _common(given)
    given = [_middle(image, size) for image in given]
    calibration, compared = given[: len(given) // 2], given[len(given) // 2 :]
    output.mkdir(parents=True, exist_ok=True)

    expected, seconds = _timed(lambda image: predict(trained, image), compared)
    found = [Converted("keras", Path(), trained.network.count_params() * 4, seconds, 0.0, 0.0, 0.0)]
    for name in names:
        if progress is not None:
            progress(name)
        path, run = _write(trained, name, output, size, calibration)
        got, seconds = _timed(run, compared)
        errors = [np.abs(a - b) for a, b in zip(got, expected, strict=True)]
        other = [to_classes(a) != to_classes(b) for a, b in zip(got, expected, strict=True)]
        found.append(
            Converted(
                name,
                path,
                _bytes(path),
                seconds,
                float(max(e.max() for e in errors)),
                float(np.mean([e.mean() for e in errors])),
                float(np.mean([o.mean() for o in other])),
            )
        )
    return found


def needed(package: str, extra: str) -> Any:
    """Imports an optional package.

    Raises:
        ExportError: it is not installed.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ExportError(
            f"{package} is needed and not installed ({error}): pip install 'unet-keras[{extra}]'"
        ) from error


def _write(
    model: TrainedModel,
    name: str,
    output: Path,
    size: tuple[int, int],
    calibration: Sequence[np.ndarray],
) -> tuple[Path, Callable[[np.ndarray], np.ndarray]]:
    """The file, and what runs it on one image [H, W, C]."""
    if name == "onnx":
        needed("tf2onnx", "export")
        needed("onnxruntime", "export")
        path = onnx_file.write_onnx(model, output / "model.onnx")
        return path, onnx_file.runner(path)
    if name in tflite.KINDS:
        kind = name.removeprefix("tflite-")
        path = tflite.write_tflite(model, output / f"model-{kind}.tflite", size, kind, calibration)
        return path, tflite.runner(path)
    path = output / name
    precision: Any = name.removeprefix("saved-model-")
    write_saved_model(model, path, precision=precision)
    signature = tf.saved_model.load(path).signatures["serving_default"]

    def run(image: np.ndarray) -> np.ndarray:
        return signature(images=tf.constant(image[None], tf.float32))["probabilities"].numpy()[0]

    return path, run


def _timed(
    run: Callable[[np.ndarray], np.ndarray], images: Sequence[np.ndarray]
) -> tuple[list[np.ndarray], float]:
    run(images[0])
    given, seconds = [], []
    for image in images:
        start = time.perf_counter()
        given.append(run(image))
        seconds.append(time.perf_counter() - start)
    return given, float(np.median(seconds))


def _common(images: Sequence[np.ndarray]) -> tuple[int, int]:
    smallest = np.min([image.shape[:2] for image in images], axis=0)
    height, width = np.minimum(smallest, LARGEST).tolist()
    return height, width


def _middle(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    top, left = ((n - wanted) // 2 for n, wanted in zip(image.shape[:2], size, strict=True))
    if min(top, left) < 0:
        raise DataError(
            f"image of {image.shape[0]} x {image.shape[1]} pixels; expected at least "
            f"{size[0]} x {size[1]}, the size of what is compared"
        )
    return image[top : top + size[0], left : left + size[1]]


def _bytes(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())
