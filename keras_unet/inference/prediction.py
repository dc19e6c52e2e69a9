"""`predict`: class probabilities for an image of any size, by overlap-tile."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_unet.data.normalization import Normalization
from keras_unet.errors import ConfigError, DataError
from keras_unet.inference import tiles
from keras_unet.models.bundle import ModelCard, TrainedModel, load_model
from keras_unet.models.unet import structure

_compiled: weakref.WeakKeyDictionary[keras.Model, Callable[..., Any]] = weakref.WeakKeyDictionary()


def predict(
    model: TrainedModel | keras.Model | str | Path,
    image: np.ndarray,
    *,
    normalization: Normalization | None = None,
    tile: int | None = None,
    batch_size: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Segments one image of any size (overlap-tile strategy: paper, section 2, figure 2).

    Missing context is mirrored at the image's borders. The result equals that of the network run
    once over the whole mirrored image, up to rounding; not so with group normalization, whose
    statistics depend on the tile.

    Args:
        model: what `load_model` returns, the path it takes, or any model of `build_unet`.
        image: [H, W] or [H, W, C], any number type, as read from the file.
        normalization: for a bare Keras model; None feeds the image as it is. A trained model
            brings its own.
        tile: largest input tile, pixels a side; None: 828, or what the depth needs.
        batch_size: tiles computed together.
        progress: called with (tiles done, tiles in all).

    Returns:
        Probabilities [H, W, K] float32; K = 1 is the foreground's probability.

    Raises:
        DataError: the image's rank or channels do not fit the model, or it holds NaN.
        ConfigError: `tile` is too small, or a normalisation is given for a trained model.
    """
    if isinstance(model, (str, Path)):
        model = load_model(model)
    if isinstance(model, TrainedModel):
        if normalization is not None:
            raise ConfigError("a trained model brings its own normalisation; do not give another")
        network, normalization = model.network, model.card.normalization
        _same_range(np.asarray(image), model.card)
    else:
        network = model
    if batch_size < 1:
        raise ConfigError(f"batch_size must be at least 1, got {batch_size}")
    form = structure(network)
    image = _checked(image, form.channels)
    size = image.shape[:2]
    axes = tiles.plan(size, form.depth, form.padding, tile)
    total = axes[0].repeats * axes[1].repeats
    forward = _forward(network, form.padding, axes[0].context)
    prepare = _preparation(image, normalization)

    result = np.empty((*size, form.num_classes), np.float32)
    done = 0
    for batch in _batches(tiles.tiles(size, axes), batch_size):
        stack = np.stack([prepare(image[np.ix_(t.rows, t.columns)]) for t in batch])
        for one, output in zip(batch, forward(stack).numpy(), strict=True):
            result[one.output] = output[one.inside]
        done += len(batch)
        if progress is not None:
            progress(done, total)
    return result


def to_classes(probabilities: np.ndarray, threshold: float = 0.5) -> np.ndarray:
    """The most probable class of each pixel: [H, W, K] float -> [H, W] int32.

    With one channel, class 1 where the probability is above `threshold`.
    """
    if probabilities.shape[-1] == 1:
        return (probabilities[..., 0] > threshold).astype(np.int32)
    return probabilities.argmax(-1).astype(np.int32)


def probabilities_of(logits: Any, output: str | None) -> Any:
    """Softmax, or sigmoid for one channel, unless the network ends in an activation itself."""
    if output is not None:
        return logits
    return tf.nn.sigmoid(logits) if logits.shape[-1] == 1 else tf.nn.softmax(logits)


def _checked(image: np.ndarray, channels: int) -> np.ndarray:
    image = np.asarray(image)
    if image.ndim == 2:
        image = image[..., None]
    if image.ndim != 3 or image.shape[-1] != channels or 0 in image.shape:
        raise DataError(
            f"image of shape {image.shape}: this model expects [height, width, {channels}]"
        )
    if not (np.issubdtype(image.dtype, np.number) or image.dtype == bool):
        raise DataError(f"image of type {image.dtype}: expected numbers")
    if np.issubdtype(image.dtype, np.floating) and not np.isfinite(image).all():
        raise DataError("image holds NaN or infinite values")
    return image


def _same_range(image: np.ndarray, card: ModelCard) -> None:
    """Grey values of another depth mean something else, unless each image is normalised alone."""
    trained = np.dtype(card.image_dtype)
    both = np.issubdtype(trained, np.integer) and np.issubdtype(image.dtype, np.integer)
    if card.normalization.method != "image" and both and image.dtype != trained:
        raise DataError(
            f"image of type {image.dtype}: this model was trained on {trained} images with "
            f'normalization "{card.normalization.method}"'
        )


def _preparation(
    image: np.ndarray, normalization: Normalization | None
) -> Callable[[np.ndarray], np.ndarray]:
    """Normalises a tile by the whole image's numbers, so that tiles agree with each other."""
    if normalization is None:
        return lambda part: part.astype(np.float32)
    shift, scale = normalization.parameters(image)
    return lambda part: (part.astype(np.float32) - shift) * scale


def _forward(network: keras.Model, padding: str, context: int) -> Callable[..., Any]:
    """The network and its activation as one graph for all sizes, kept as long as the network."""
    if network not in _compiled:
        network_ref = weakref.ref(network)  # the cache must not keep its own key alive
        form = structure(network)

        @tf.function(
            input_signature=[tf.TensorSpec([None, None, None, form.channels], tf.float32)],
            autograph=False,
        )
        def forward(x: Any) -> Any:
            alive = network_ref()
            assert alive is not None
            y = probabilities_of(alive(x, training=False), form.output)
            return y if padding == "valid" else y[:, context:-context, context:-context]

        _compiled[network] = forward
    return _compiled[network]


def _batches(items: Iterator[tiles.Tile], size: int) -> Iterator[list[tiles.Tile]]:
    while batch := list(islice(items, size)):
        yield batch
