"""The serving graph: images in, probabilities or masks out, nothing left to the client.

Decoding, normalisation, mirroring, tiles, cropping and encoding are TensorFlow operations of the
exported graph, so that a server needs neither this package nor Keras. What a request does wrong
raises InvalidArgumentError, which TensorFlow Serving answers as INVALID_ARGUMENT (REST: 400).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tensorflow as tf

from keras_unet.data import encoded, records
from keras_unet.data.normalization import Normalization
from keras_unet.errors import ConfigError
from keras_unet.inference.files.label_values import to_label_values
from keras_unet.inference.prediction import probabilities_of
from keras_unet.inference.tiles import layout
from keras_unet.models.bundle import ModelCard, TrainedModel
from keras_unet.models.unet import structure, whole_image_statistics
from keras_unet.serving.client import TILING
from keras_unet.serving.grey_values import parameters, same_depth
from keras_unet.serving.overlap import Tiling, by_tiles, tiling

Precision = Literal["float32", "bfloat16", "float16"]


def write_saved_model(
    model: TrainedModel,
    folder: str | Path,
    *,
    precision: Precision = "float32",
    tile: int | None = None,
    max_pixels: int = encoded.MAX_PIXELS,
) -> None:
    """Writes a SavedModel to `folder`; C channels, K classes, B images in a request.

    - `serving_default(images)`: float32 [B, H, W, C], values as in the training images' files, any
      H and W -> `probabilities` float32 [B, H, W, K]. Images of a batch share one size.
    - `segment_bytes(image_bytes)`: string [B], PNG or JPEG files, whose sizes may differ ->
      `mask_bytes` string [B], grey PNG files with the values that `mask_values` gives.
    - `segment_bytes_probabilities(image_bytes)` -> also `probability_bytes` string [B, K]: a PNG
      of 16 bits for each class, round(65535 p).
    - `segment_examples(examples)`: string [B], tf.Example as in `data.records` -> `mask_bytes`.
    - `tiling(request)`: int32 [B], any numbers -> what a client that sends a huge image in tiles
      must know, int32 [B] each: `stride`, of which tiles' origins are multiples; `context`, pixels
      around a tile that are sent and thrown away; `exact`, 0 where a pixel depends on the whole
      image, so that no tile can give what the whole gives.

    PNG and JPEG have one or three channels, so a model of another number has no `segment_bytes`.
    Names end in `_bytes` because TF Serving's REST API sends such outputs as base64.

    Args:
        precision: how the weights are stored; computing is in float32.
        tile: largest input tile, pixels a side; None as for `predict`. An image that is larger is
            computed tile after tile.
        max_pixels: of one image; more are refused, PNG and JPEG before they are decoded.

    Raises:
        ConfigError: `tile` is too small, `max_pixels` or `precision` is out of range.
    """
    if not 1 <= max_pixels < 2**31:
        raise ConfigError(f"max_pixels is {max_pixels}; expected 1 to 2^31 - 1")
    form = structure(model.network)
    tiles = tiling(form, tile)
    module = tf.Module()
    network = _stored(model, precision, module)
    segment = _segmenter(network, tiles, model.card.normalization)
    served: dict[str, Any] = {}

    def add(name: str, function: Callable[..., Any], spec: tf.TensorSpec) -> None:
        served[name] = tf.function(function, input_signature=[spec], autograph=False)

    def serving_default(images: Any) -> dict[str, Any]:
        size = tf.shape(images, tf.int64)
        few = encoded.few_enough(size[1], size[2], max_pixels)
        images = encoded.checked(images, few, encoded.OF_SIZE, size[1], size[2], max_pixels)
        images = tf.debugging.check_numerics(images, "expected finite grey values; images holds")
        return {"probabilities": segment(images, tf.identity, tf.float32)}

    add(
        "serving_default",
        serving_default,
        tf.TensorSpec([None, None, None, form.channels], tf.float32, "images"),
    )
    values = tf.constant(mask_values(model.card))

    def masks(images: Any) -> Any:  # [H, W, C] -> [1, H, W, 1]
        return segment(images[None], lambda p: tf.gather(values, _classes(p)), values.dtype)

    def segment_bytes(image_bytes: Any) -> dict[str, Any]:
        def one(data: Any) -> Any:
            return tf.io.encode_png(masks(_decoded(data, form.channels, max_pixels, model.card))[0])

        return {"mask_bytes": _each(one, image_bytes, tf.TensorSpec([], tf.string))}

    def segment_bytes_probabilities(image_bytes: Any) -> dict[str, Any]:
        def one(data: Any) -> Any:
            image = _decoded(data, form.channels, max_pixels, model.card)
            found = segment(image[None], _classes_and_shares, tf.uint16)[0]
            pngs = [tf.io.encode_png(found[..., k : k + 1]) for k in range(1, found.shape[-1])]
            mask = tf.gather(values, tf.cast(found[..., :1], tf.int32))
            return tf.io.encode_png(mask), tf.stack(pngs)

        kinds = (tf.TensorSpec([], tf.string), tf.TensorSpec([form.num_classes], tf.string))
        mask_bytes, probability_bytes = _each(one, image_bytes, kinds)
        return {"mask_bytes": mask_bytes, "probability_bytes": probability_bytes}

    def segment_examples(examples: Any) -> dict[str, Any]:
        def one(example: Any) -> Any:
            record = tf.io.parse_single_example(example, records.features())
            image, bits = records.decode_image(record, form.channels, max_pixels)
            image = tf.debugging.check_numerics(image, "expected finite grey values; record holds")
            return tf.io.encode_png(masks(same_depth(image, bits, model.card))[0])

        return {"mask_bytes": _each(one, examples, tf.TensorSpec([], tf.string))}

    if form.channels in (1, 3):
        text = tf.TensorSpec([None], tf.string, "image_bytes")
        add("segment_bytes", segment_bytes, text)
        add("segment_bytes_probabilities", segment_bytes_probabilities, text)
    add("segment_examples", segment_examples, tf.TensorSpec([None], tf.string, "examples"))
    needs = tiling_needs(model)

    def answer_tiling(request: Any) -> dict[str, Any]:  # as many as asked: servers join requests
        return {key: tf.fill(tf.shape(request), number) for key, number in needs.items()}

    add(TILING, answer_tiling, tf.TensorSpec([None], tf.int32, "request"))
    tf.saved_model.save(module, str(folder), signatures=served)


def tiling_needs(model: TrainedModel) -> dict[str, int]:
    """What the signature `tiling` answers: see `write_saved_model`."""
    form = structure(model.network)
    # with the whole reach around it a tile is exact for either padding
    around = layout(form.depth, "same", form.upsampling)
    exact = model.card.normalization.method != "image" and not whole_image_statistics(model.network)
    return {"stride": around.stride, "context": around.context, "exact": int(exact)}


def mask_values(card: ModelCard) -> np.ndarray:
    """What a mask holds for each class, uint8 or uint16 [K]: as `keras-unet predict` writes it.

    Label values that a PNG cannot hold (negative, or above 65535) give way to class numbers.
    """
    count = len(card.classes)
    values = to_label_values(np.arange(count), card.labels)
    if values.min() < 0 or values.max() > 65535:
        values = np.arange(count)
    return values.astype(np.uint8 if values.max() < 256 else np.uint16)


def _stored(model: TrainedModel, precision: Precision, module: tf.Module) -> Callable[[Any], Any]:
    """The network with its activation, reading weights of `precision` that belong to `module`."""
    if precision not in ("float32", "bfloat16", "float16"):
        raise ConfigError(
            f'precision is {precision!r}; expected "float32", "bfloat16" or "float16"'
        )
    network, output = model.network, structure(model.network).output
    module.weights = [
        tf.Variable(stored(v.numpy(), precision), trainable=False, name=v.path.replace("/", "_"))
        for v in (*network.trainable_variables, *network.non_trainable_variables)
    ]
    count = len(network.trainable_variables)

    def forward(x: Any) -> Any:
        weights = [tf.cast(v, tf.float32) if v.dtype.is_floating else v for v in module.weights]
        y, _ = network.stateless_call(weights[:count], weights[count:], x, training=False)
        return probabilities_of(y, output)

    return forward


def stored(weights: np.ndarray, precision: Precision) -> np.ndarray:
    """Weights in the type in which they are kept: kernels in `precision`, vectors in float32.

    Vectors (biases, normalisation) are a thousandth of the weights, and a variance may be beyond
    float16.
    """
    if weights.ndim < 2 or weights.dtype != np.float32:
        return weights
    return weights.astype(tf.as_dtype(precision).as_numpy_dtype)


def _segmenter(
    network: Callable[[Any], Any], tiles: Tiling, normalization: Normalization
) -> Callable[..., Any]:
    """(images [B, H, W, C], finish, dtype) -> finish(probabilities), of dtype, [B, H, W, …]."""

    def segment(images: Any, finish: Callable[[Any], Any], dtype: Any) -> Any:
        shift, scale = parameters(images, normalization)

        def compute(x: Any) -> Any:
            return finish(network((tf.cast(x, tf.float32) - shift) * scale))

        return by_tiles(images, tiles, compute, dtype)

    return segment


def _classes(probabilities: Any) -> Any:
    """`to_classes` as a graph: int32 [B, H, W, 1]."""
    if probabilities.shape[-1] == 1:
        return tf.cast(probabilities > 0.5, tf.int32)
    return tf.argmax(probabilities, -1, tf.int32)[..., None]


def _classes_and_shares(probabilities: Any) -> Any:
    """Class, and each class's probability times 65535: uint16 [B, H, W, 1 + K]."""
    shares = tf.cast(tf.round(probabilities * 65535.0), tf.int32)
    return tf.cast(tf.concat([_classes(probabilities), shares], -1), tf.uint16)


def _each(one: Callable[[Any], Any], items: Any, spec: Any) -> Any:
    return tf.map_fn(one, items, fn_output_signature=spec, parallel_iterations=1)


def _decoded(data: Any, channels: int, max_pixels: int, card: ModelCard) -> Any:
    image, bits = encoded.decode(data, channels, max_pixels)
    return same_depth(image, bits, card)
