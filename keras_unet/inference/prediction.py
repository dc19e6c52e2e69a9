"""`predict`: class probabilities for an image of any size, by overlap-tile."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from keras_unet.inference.forward import probabilities_of as probabilities_of
from keras_unet.inference.members import Model
from keras_unet.inference.options import PredictOptions, make_options
from keras_unet.inference.rows import Predictor
from keras_unet.models.bundle import Stated


def predict(
    model: Model | Sequence[Model],
    image: np.ndarray,
    *,
    normalization: Stated = None,
    tile: int | tuple[int, int] | None = None,
    batch_size: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> np.ndarray:
    """Segments one image of any size (overlap-tile strategy: paper, section 2, figure 2).

    Missing context is mirrored at the image's borders. The result equals that of the network run
    once over the whole mirrored image, up to rounding; not so with group normalization, whose
    statistics depend on the tile, and with `blend="gaussian"` or `"flat"`.

    Args:
        model: what `load_model` returns, the path it takes, any model of `build_unet`; or several
            whose probabilities are averaged: a sequence, or a folder with `fold_0`, `fold_1`, …
        image: [H, W] or [H, W, C], any number type, as read from the file.
        normalization: for a model whose card does not say it, as one of a script: "image", a number
            that grey values are divided by, or a `Normalization`; None feeds the image as it is. A
            trained model brings its own.
        tile: largest input tile, pixels a side or (height, width); None: the fastest that memory
            holds.
        batch_size: tiles computed together; None: small tiles are put together.
        progress: called with (tiles done, tiles in all).
        options: `memory`, `symmetries`, `average`, `blend`, `overlap`, `precision`, `dtype`: see
            `keras_unet.inference.PredictOptions`.

    Returns:
        Probabilities [H, W, K] float32, or the `dtype` asked for; K = 1 is the foreground's
        probability.

    Raises:
        DataError: the image's rank or channels do not fit the model, or it holds NaN; or models
            that do not fit each other.
        ConfigError: an option is unknown, out of range or does not fit the model, or a
            normalisation is given for a trained model.
    """
    chosen: PredictOptions = make_options({"tile": tile, "batch_size": batch_size, **options})
    return Predictor(model, chosen, normalization)(image, progress)


def to_classes(probabilities: np.ndarray, threshold: float = 0.5) -> np.ndarray:
    """The most probable class of each pixel: [H, W, K] float -> [H, W] int32.

    With one channel, class 1 where the probability is above `threshold`.
    """
    if probabilities.shape[-1] == 1:
        return (probabilities[..., 0] > threshold).astype(np.int32)
    return probabilities.argmax(-1).astype(np.int32)
