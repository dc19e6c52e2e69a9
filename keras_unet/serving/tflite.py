"""The model as a LiteRT (TensorFlow Lite) file, for phones, instruments and browsers."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from keras_unet.errors import ConfigError
from keras_unet.models.bundle import TrainedModel
from keras_unet.quiet import without_notices
from keras_unet.remote_path import local_path
from keras_unet.serving.portable import portable

KINDS = ("tflite-float32", "tflite-float16", "tflite-int8")


def write_tflite(
    model: TrainedModel,
    path: str | Path,
    size: tuple[int, int],
    kind: str = "float16",
    calibration: Sequence[np.ndarray] = (),
) -> Path:
    """Writes `path`: float32 `images` [1, H, W, C] -> `probabilities` [1, H, W, K], H, W = `size`.

    Normalisation, mirroring and cropping are inside.

    Args:
        size: height and width, which the file fixes.
        kind: "float32"; "float16": half-size weights; "int8": weights and activations in 8 bits.
        calibration: for int8, real images [H, W, C] of `size`, as read from their files: they
            show the range of each layer's values.

    Raises:
        ConfigError: an unknown kind, or int8 without calibration images.
    """
    if f"tflite-{kind}" not in KINDS:
        raise ConfigError(f'kind is {kind!r}; expected "float32", "float16" or "int8"')
    function = portable(model, size).get_concrete_function()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], model.network)
    if kind != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if kind == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if kind == "int8":
        if not calibration:
            raise ConfigError("int8 needs calibration images, found none; a dozen is plenty")

        def examples() -> Iterator[list[np.ndarray]]:
            for image in calibration:
                yield [image[None].astype(np.float32)]

        converter.representative_dataset = examples
    path = local_path(path)
    beside = path.with_name(f".{path.name}-{os.getpid()}")
    with without_notices():
        content = converter.convert()
    beside.write_bytes(content)
    beside.replace(path)
    return path


def runner(path: str | Path) -> Callable[[np.ndarray], np.ndarray]:
    """What runs the file on one image of its size, [H, W, C] -> float32 [H, W, K], on the CPU."""
    with warnings.catch_warnings(), without_notices():
        warnings.simplefilter("ignore")  # it moves to a package of its own, ai-edge-litert
        interpreter: Any = tf.lite.Interpreter(str(path), num_threads=os.cpu_count())
        interpreter.allocate_tensors()
    given = interpreter.get_input_details()[0]["index"]
    made = interpreter.get_output_details()[0]["index"]

    def run(image: np.ndarray) -> np.ndarray:
        interpreter.set_tensor(given, image[None].astype(np.float32))
        interpreter.invoke()
        return interpreter.get_tensor(made)[0]

    return run
