"""The model as an ONNX file, for onnxruntime and whatever else reads ONNX."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from keras_unet.models.bundle import TrainedModel
from keras_unet.remote_path import local_path
from keras_unet.serving.portable import portable

OPSET = 17  # of 2022: read by every runtime that is in use


def write_onnx(model: TrainedModel, path: str | Path, *, normalise: bool = True) -> Path:
    """Writes `path`: float32 `images` [B, H, W, C] of any size -> `probabilities` [B, H, W, K].

    Normalisation, mirroring and cropping are inside; images are computed as a whole, so cut
    large ones up (or let a server's SavedModel do it). Needs tf2onnx.

    Args:
        normalise: images hold the grey values of the files; else they are normalised already.
    """
    import tf2onnx

    function = portable(model, normalise=normalise)
    written, _ = tf2onnx.convert.from_function(
        function, input_signature=function.input_signature, opset=OPSET
    )
    path = local_path(path)
    beside = path.with_name(f".{path.name}-{os.getpid()}")
    beside.write_bytes(written.SerializeToString())
    beside.replace(path)
    return path


def runner(path: str | Path) -> Callable[[np.ndarray], np.ndarray]:
    """What runs the file on one image, [H, W, C] -> float32 [H, W, K], on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def run(image: np.ndarray) -> np.ndarray:
        return session.run(["probabilities"], {"images": image[None].astype(np.float32)})[0][0]

    return run
