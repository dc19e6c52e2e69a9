"""Answer of a model, from its probabilities: numbered objects, or classes, as its card says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from keras_unet.inference.ensemble import Model
from keras_unet.inference.inputs import ArraySource
from keras_unet.inference.options import PredictOptions
from keras_unet.inference.predictor import Predictor, to_classes
from keras_unet.inference.scale import NATIVE, Ratio, objects_at
from keras_unet.models.decoding import DECODING, Decoding
from keras_unet.models.keras_file import Stated
from keras_unet.models.model_card import decoding_of
from keras_unet.settings import validated


def segment(
    model: Model | Sequence[Model],
    image: np.ndarray,
    *,
    normalization: Stated = None,
    progress: Callable[[int, int], None] | None = None,
    say: Callable[[str], None] | None = None,
    **options: Any,
) -> np.ndarray:
    """Segments one image of any size into what the model was trained for.

        labels = keras_unet.segment("runs/nuclei", image)
        labels.max()                                        # how many nuclei

    A model of instance labels answers numbered objects, found as its card says; one of classes
    answers the most probable class of each pixel.

    Args:
        model, image, normalization, progress, say: as for `keras_unet.predict`.
        options: those of `predict` but `dtype`, and to find objects otherwise than the card says
            those of `keras_unet.models.Decoding`: `threshold`, `split`, `neck`, `min_size`,
            `fill_holes`, `seed_distance`, `connectivity`. Of classes, `threshold` alone, for a
            model of two.

    Returns:
        int32 [H, W]: objects 1, 2, … without gaps in reading order, 0 = background; or classes.

    Raises:
        DataError, ConfigError: as `keras_unet.predict`; or an option does not fit the model.
    """
    changes = {name: options.pop(name) for name in DECODING if name in options}
    chosen = validated(PredictOptions, {**options, "dtype": "float32"})
    predictor = Predictor(model, chosen, normalization)
    card = predictor.cards[0]
    decoding = decoding_of(card, changes)
    predictor = predictor.fitted([ArraySource(image)], say=say)
    probabilities = predictor(image, progress)
    if decoding is not None:
        return objects_of(probabilities, decoding, predictor.ratio)
    if (threshold := changes.get("threshold")) is not None:
        return (probabilities[..., -1] > threshold).astype(np.int32)
    return to_classes(probabilities)


def objects_of(probabilities: np.ndarray, decoding: Decoding, ratio: Ratio = NATIVE) -> np.ndarray:
    """The objects of probabilities float [H, W, K], whose last class is the foreground's.

    Args:
        ratio: at which the image was predicted, see `Predictor.ratio`.

    Returns:
        int32 [H, W], see `to_instances`.
    """
    return objects_at(np.asarray(probabilities[..., -1], np.float32), decoding, ratio)
