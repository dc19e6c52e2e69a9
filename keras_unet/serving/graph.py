"""Graph that is served: images in, probabilities or masks out, nothing left to the client.

Decoding, normalisation, mirroring, tiles, cropping and encoding are TensorFlow operations of the
exported graph, so that a server needs neither this package nor Keras. What a request does wrong
raises InvalidArgumentError, which TensorFlow Serving answers as INVALID_ARGUMENT (REST: 400).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from keras_unet.data import graph_images, records
from keras_unet.data.graph_images import checked_tensor
from keras_unet.data.normalization import STD_FLOOR, Normalization
from keras_unet.errors import ConfigError
from keras_unet.inference.files.mask_formats import label_values
from keras_unet.inference.predictor import probabilities_of
from keras_unet.inference.tiles import Layout, fitting, layout
from keras_unet.models.keras_file import ModelCard, TrainedModel
from keras_unet.models.unet import Structure, structure, whole_image_statistics
from keras_unet.serving.card import WeightPrecision
from keras_unet.serving.client import TILING
from keras_unet.serving.protocol.objects import (
    DECODING,
    FULL,
    PROBABILITIES,
    decoding_tensors,
    last_below,
)

USUAL_TILE = 828  # input pixels a side: at depth 4, 644 of output, 60 percent of the tile
_BAND = 2**20  # numbers of an image that are turned into float64 at a time


def write_saved_model(
    model: TrainedModel,
    folder: str | Path,
    *,
    precision: WeightPrecision = "float32",
    tile: int | None = None,
    max_pixels: int = graph_images.MAX_PIXELS,
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
    - `decoding(request)`, of a model that answers objects: int32 [B], any numbers -> how they are
      found in the probabilities of the last class, [B] each: the fields of
      `keras_unet.models.Decoding`, `threshold` and `neck` float64, `split` string, others int32. No
      graph can find them; who has `probability_bytes` of such a model finds the same objects as in
      the probabilities themselves: the last class's 16 bits are on their side of the threshold, and
      so within 1/65535.

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
        few = graph_images.few_enough(size[1], size[2], max_pixels)
        images = graph_images.checked_tensor(
            images, few, graph_images.OF_SIZE, size[1], size[2], max_pixels
        )
        images = tf.debugging.check_numerics(images, "expected finite grey values; images holds")
        return {"probabilities": segment(images, tf.identity, tf.float32)}

    add(
        "serving_default",
        serving_default,
        tf.TensorSpec([None, None, None, form.channels], tf.float32, "images"),
    )
    values, decoding = tf.constant(mask_values(model.card)), model.card.decoding
    threshold = None if decoding is None else decoding.threshold

    def masks(images: Any) -> Any:  # [H, W, C] -> [1, H, W, 1]
        return segment(images[None], lambda p: tf.gather(values, _classes(p)), values.dtype)

    def segment_bytes(image_bytes: Any) -> dict[str, Any]:
        def one(data: Any) -> Any:
            return tf.io.encode_png(masks(_decoded(data, form.channels, max_pixels, model.card))[0])

        return {"mask_bytes": _each(one, image_bytes, tf.TensorSpec([], tf.string))}

    def segment_bytes_probabilities(image_bytes: Any) -> dict[str, Any]:
        def one(data: Any) -> Any:
            image = _decoded(data, form.channels, max_pixels, model.card)
            found = segment(image[None], lambda p: _classes_and_shares(p, threshold), tf.uint16)[0]
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
        add(PROBABILITIES, segment_bytes_probabilities, text)
    add("segment_examples", segment_examples, tf.TensorSpec([None], tf.string, "examples"))

    def add_facts(name: str, facts: Mapping[str, Any]) -> None:
        def answer(request: Any) -> dict[str, Any]:  # as many as asked: servers join requests
            return {key: tf.fill(tf.shape(request), fact) for key, fact in facts.items()}

        add(name, answer, tf.TensorSpec([None], tf.int32, "request"))

    add_facts(TILING, tiling_needs(model))
    if decoding is not None:
        add_facts(DECODING, decoding_tensors(decoding))
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
    values = label_values(card.labels)[:count]
    if values.min() < 0 or values.max() > 65535:
        values = np.arange(count)
    return values.astype(np.uint8 if values.max() < 256 else np.uint16)


def _stored(
    model: TrainedModel, precision: WeightPrecision, module: tf.Module
) -> Callable[[Any], Any]:
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


def stored(weights: np.ndarray, precision: WeightPrecision) -> np.ndarray:
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
        shift, scale = normalization_parameters(images, normalization)

        def compute(x: Any) -> Any:
            return finish(network((tf.cast(x, tf.float32) - shift) * scale))

        return by_tiles(images, tiles, compute, dtype)

    return segment


def _classes(probabilities: Any) -> Any:
    """`to_classes` as a graph: int32 [B, H, W, 1]."""
    if probabilities.shape[-1] == 1:
        return tf.cast(probabilities > 0.5, tf.int32)
    return tf.argmax(probabilities, -1, tf.int32)[..., None]


def _classes_and_shares(probabilities: Any, threshold: float | None) -> Any:
    """Class, and each class's probability times 65535: uint16 [B, H, W, 1 + K].

    With a threshold the last class's stays on its side: above it or not.
    """
    shares = tf.cast(tf.round(probabilities * float(FULL)), tf.int32)
    if threshold is not None:
        last, most = shares[..., -1:], last_below(threshold)
        above = probabilities[..., -1:] > threshold
        last = tf.where(above, tf.maximum(last, most + 1), tf.minimum(last, most))
        shares = tf.concat([shares[..., :-1], last], -1)
    return tf.cast(tf.concat([_classes(probabilities), shares], -1), tf.uint16)


def _each(one: Callable[[Any], Any], items: Any, spec: Any) -> Any:
    return tf.map_fn(one, items, fn_output_signature=spec, parallel_iterations=1)


def _decoded(data: Any, channels: int, max_pixels: int, card: ModelCard) -> Any:
    image, bits = graph_images.decode(data, channels, max_pixels)
    return same_depth(image, bits, card)


def same_depth(image: Any, bits: Any, card: ModelCard) -> Any:
    """Grey values of another depth mean something else, unless each image is normalised alone."""
    trained = np.dtype(card.image_dtype)
    if card.normalization.method == "image" or trained.kind not in "ui":
        return image
    expected = 8 * trained.itemsize
    return checked_tensor(
        image,
        (bits == expected) | (bits == 0) | ((bits < 8) & (expected == 8)),
        f"image of {{}} bits; expected {trained}, as in training",
        bits,
    )


def normalization_parameters(images: Any, normalization: Normalization) -> tuple[Any, Any]:
    """`Normalization.parameters` of each image: (shift, scale), float32 [B or 1, 1, 1, C]."""
    if normalization.method == "image":  # in float64: a constant image must come out as zeros
        exact = tf.float64
        count = tf.cast(tf.reduce_prod(tf.shape(images)[1:3]), exact)
        mean = _sum_of_bands(images, lambda band: band) / count
        std = tf.sqrt(_sum_of_bands(images, lambda band: tf.square(band - mean)) / count)
        low, high = (
            tf.cast(f(images, axis=[1, 2, 3], keepdims=True), exact)
            for f in (tf.reduce_min, tf.reduce_max)
        )
        least = STD_FLOOR * tf.maximum(tf.abs(low), tf.abs(high))
        scale = tf.math.divide_no_nan(tf.ones_like(std), tf.maximum(std, least))
        return tf.cast(mean, tf.float32), tf.cast(scale, tf.float32)
    shift, scale = normalization.parameters(np.zeros((1, 1, images.shape[-1]), np.float32))
    if normalization.scale is not None:
        brightest = tf.cast(tf.reduce_max(images), tf.float32)
        scale = checked_tensor(
            scale,
            (tf.size(images) == 0) | (brightest <= normalization.scale * (1 + 1e-6)),
            f"grey values up to {{}}; expected at most {normalization.scale:g}",
            brightest,
        )
    return tf.constant(shift), scale


def _sum_of_bands(images: Any, function: Callable[[Any], Any]) -> Any:
    """Sum over the pixels of function(image), float64 [B, 1, 1, C], some rows at a time."""
    shape = tf.shape(images)
    rows = tf.maximum(1, _BAND // tf.maximum(shape[0] * shape[2] * shape[3], 1))

    def add(top: Any, total: Any) -> Any:
        band = function(tf.cast(images[:, top : top + rows], tf.float64))
        return top + rows, total + tf.reduce_sum(band, axis=[1, 2], keepdims=True)

    zero = tf.zeros(tf.stack([shape[0], 1, 1, shape[3]]), tf.float64)
    start = (tf.constant(0), tf.ensure_shape(zero, [None, 1, 1, images.shape[-1]]))
    return tf.while_loop(lambda top, _: top < shape[1], add, start, parallel_iterations=1)[1]


class Tiling(NamedTuple):
    """What does not depend on the image: what the network asks of tiles, and the largest one."""

    form: Layout
    largest: int


class _Axis(NamedTuple):
    """Along one axis, as scalars: the image's size, input tile, new pixels a tile, how many."""

    size: Any
    tile: Any
    step: Any
    repeats: Any


def tiling(network: Structure, tile: int | None = None) -> Tiling:
    """The tiles of `inference.tiles.layout`; `tile` is the largest, pixels a side.

    Raises:
        ConfigError: `tile` is too small to be repeated.
    """
    form = layout(network.depth, network.padding, network.upsampling)
    return Tiling(form, fitting(form, max(USUAL_TILE, form.smallest) if tile is None else tile))


def by_tiles(images: Any, tiles: Tiling, compute: Callable[[Any], Any], dtype: Any) -> Any:
    """Applies `compute` to mirrored tiles one after the other and puts its outputs together.

    Args:
        images: [B, H, W, C], any H, W ≥ 1.
        compute: the network, a tile [B, h, w, C] -> [B, h', w', K] of `dtype`.

    Returns:
        [B, H, W, K]. Beside it and the image, one tile's activations are in memory at a time.
    """
    shape = tf.shape(images)
    rows, columns = _axis(shape[1], tiles), _axis(shape[2], tiles)
    context, lead = tiles.form.context, tiles.form.lead

    def one(index: Any, found: Any) -> Any:
        row, column = index // columns.repeats, index % columns.repeats
        x = tf.gather(images, _mirrored(row, rows, context), axis=1)
        x = tf.gather(x, _mirrored(column, columns, context), axis=2)
        y = compute(x)[:, lead : lead + rows.step, lead : lead + columns.step]
        return index + 1, found.write(index, y)

    total = rows.repeats * columns.repeats
    found = tf.TensorArray(dtype, size=total, element_shape=[None] * 4)
    _, found = tf.while_loop(
        lambda index, _: index < total, one, (tf.constant(0), found), parallel_iterations=1
    )
    y = found.stack()  # [tiles, B, rows.step, columns.step, K]
    k = tf.shape(y)[-1]
    y = tf.reshape(y, [rows.repeats, columns.repeats, shape[0], rows.step, columns.step, k])
    y = tf.transpose(y, [2, 0, 3, 1, 4, 5])
    y = tf.reshape(y, [shape[0], rows.repeats * rows.step, columns.repeats * columns.step, k])
    return y[:, : rows.size, : columns.size]


def mirrored_whole(images: Any, form: Layout) -> tuple[Any, int]:
    """[B, H, W, C] extended to an input whose output covers it, and where in the output it is.

    Without loops; sizes that are known are folded into constants, and then no runtime prepares the
    graph for other images, though a LiteRT file's client may ask for it: it would answer with a
    part of them.
    """
    known = images.shape[1:3]
    if None not in known:
        images = _of_known_size(images)
    for axis in (1, 2):
        size = tf.shape(images)[axis] if None in known else tf.constant(known[axis - 1])
        one = _Axis(size, _whole(size, form), size, 1)
        images = tf.gather(images, _mirrored(0, one, form.context), axis=axis)
    return images, form.lead


def _of_known_size(images: Any) -> Any:
    """Float32 images as they are, by operations that a runtime can't do for any other shape.

    To reverse the first of a sequence changes nothing; there must be a sequence for each length.
    Delegates would take a plainer operation, and not all of them look at shapes. As bits, so that
    no converter makes 8-bit numbers of them, which LiteRT cannot reverse.
    """
    bits = tf.bitcast(images, tf.int32)
    for axis, count in enumerate(images.shape):
        once = tf.ones([count], tf.int32)
        bits = tf.reverse_sequence(bits, once, seq_axis=2 if axis == 1 else 1, batch_axis=axis)
    return tf.bitcast(bits, tf.float32)


def _whole(size: Any, form: Layout) -> Any:
    """`Layout.input_for`, without negative numbers: no two converters agree on -1 // n."""
    stride = form.stride
    steps = (size + form.lost - form.smallest + 3 * stride - 1) // stride
    return form.smallest - 2 * stride + steps * stride


def _axis(size: Any, tiles: Tiling) -> _Axis:
    form = tiles.form
    whole = _whole(size, form)
    one = whole <= tiles.largest
    tile = tf.where(one, whole, tiles.largest)
    step = tf.where(one, size, (tile - form.lost) // form.stride * form.stride)
    return _Axis(size, tile, step, -(-size // step))


def _mirrored(index: Any, axis: _Axis, context: int) -> Any:
    """`tiles.mirrored` for tile `index`: where in the image its pixels are, int32 [tile]."""
    period = tf.maximum(2 * axis.size - 2, 1)
    start = index * axis.step - context
    folded = tf.abs(tf.range(start, start + axis.tile)) % period  # no converter agrees on -1 % n
    return tf.minimum(folded, period - folded) % axis.size
