"""Preprocessing by Transform: how grey values are normalised, learnt on the training split.

Pixels stay encoded (a training holds them as bytes); each record gains the numbers that turn
them into what the network sees, float32 [C] each: (image - `image/shift`) * `image/scale`. They are
those of `keras_unet.data.Normalization`, which the Trainer reads from the same graph and which
goes into the model's card and so into the serving graph.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_transform as tft

from keras_unet.data import STD_FLOOR, Normalization, checked_tensor, decode_image, encode_example
from keras_unet.errors import ConfigError, DataError
from keras_unet.serving import normalization_parameters

SHIFT, SCALE, METHOD = "image/shift", "image/scale", "image/normalization"
MOST_PIXELS = 2**31 - 1  # no limit: ImageExampleGen has read these very images
_IMAGE = ("encoded", "format", "height", "width", "channels")
_RANGES = {np.dtype(f"{kind}{bits}") for kind in ("int", "uint") for bits in (8, 16, 32)}


def preprocessing_fn(inputs: dict[str, Any], custom_config: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that is in the records, and `image/shift`, `image/scale`, `image/normalization`.

    Args:
        inputs: a batch of B records, as the schema has them; scalars are [B].
        custom_config: "channels", C, and "normalization": "image", "dataset" or "range", see
            `keras_unet.data.Normalization`.

    Raises:
        ConfigError: another method. InvalidArgumentError, when it runs: an image that cannot be
        decoded or has another number of channels, or that does not suit "range".
    """
    channels, method = int(custom_config["channels"]), custom_config["normalization"]
    find = {"image": _of_image, "dataset": _of_dataset, "range": _of_range}.get(method)
    if find is None:
        raise ConfigError(f'normalization is {method!r}; expected "image", "dataset" or "range"')
    shift, scale = find(inputs, channels)
    count = tf.shape(inputs["image/mean"])[0]
    return {
        **inputs,
        SHIFT: tf.broadcast_to(tf.cast(shift, tf.float32), [count, channels]),
        SCALE: tf.broadcast_to(tf.cast(scale, tf.float32), [count, channels]),
        METHOD: tf.fill([count], method),
    }


def fitted_normalization(transform_graph: str) -> Normalization:
    """What Transform learnt, from its output folder (the uri of a TransformGraph artifact).

    Shift and scale of the object are those of the graph to the last bit: it holds them as float32.

    Raises:
        DataError: the graph was not made by `preprocessing_fn`.
    """
    output = tft.TFTransformOutput(str(transform_graph))
    specs = output.transformed_feature_spec()
    if not {SHIFT, SCALE, METHOD} <= set(specs):
        raise DataError(
            f"{transform_graph}: found a transform graph without {SHIFT} and {SCALE}; expected "
            "one made by pipelines.checks.preprocessing"
        )
    found = output.transform_raw_features(_smallest_batch(output, specs[SHIFT].shape[0]))
    method = found[METHOD].numpy()[0].decode()
    shift, scale = (found[name].numpy()[0].astype(np.float64) for name in (SHIFT, SCALE))
    std = np.divide(1.0, scale, out=np.zeros_like(scale), where=scale > 0)
    if method == "dataset":
        return Normalization(method=method, mean=tuple(shift.tolist()), std=tuple(std.tolist()))
    if method == "range":
        return Normalization(method=method, scale=float(np.round(std[0])))
    return Normalization(method=method)


def _of_image(inputs: Mapping[str, Any], channels: int) -> tuple[Any, Any]:
    """Each image by its own mean and standard deviation: the serving graph's own operations."""

    def one(record: Mapping[str, Any]) -> Any:
        image, _ = decode_image(record, channels, MOST_PIXELS)
        shift, scale = normalization_parameters(_measured(image)[None], Normalization())
        return tf.reshape(shift, [channels]), tf.reshape(scale, [channels])

    kind = tf.TensorSpec([channels], tf.float32)
    return _each(one, inputs, (kind, kind))


def _of_dataset(inputs: Mapping[str, Any], channels: int) -> tuple[Any, Any]:
    """Mean and standard deviation of all pixels of the training split, in float64 [C].

    Sums of squares lose digits where the mean is large beside the deviation. So they are taken
    about the mean of the recorded means, which is known before any image is decoded, and which is
    as near to the mean of the pixels as makes no odds: one pass over the pixels, and exact.
    """
    pivot = tf.cast(tft.mean(inputs["image/mean"], name="pivot"), tf.float64)

    def one(record: Mapping[str, Any]) -> Any:
        image, _ = decode_image(record, channels, MOST_PIXELS)
        image = _measured(image)
        rest = tf.cast(image, tf.float64) - pivot
        count = tf.cast(tf.size(image, tf.int64) // channels, tf.float64)
        return tf.reduce_sum(rest, [0, 1]), tf.reduce_sum(rest**2, [0, 1]), count

    kind = tf.TensorSpec([channels], tf.float64)
    parts = _each(one, inputs, (kind, kind, tf.TensorSpec([], tf.float64)))
    first, second, pixels = (
        tft.sum(part, reduce_instance_dims=False, name=name)
        for part, name in zip(parts, ("grey_sum", "grey_squares", "pixels"), strict=True)
    )
    mean = pivot + first / pixels
    std = tf.sqrt(tf.maximum(second / pixels - (first / pixels) ** 2, 0.0))
    least = STD_FLOOR * tf.maximum(tf.maximum(tf.abs(mean), tf.abs(mean - pivot)), std)
    std = tf.where(std > least, std, tf.zeros_like(std))  # a constant channel becomes zeros
    return mean, tf.math.divide_no_nan(tf.ones_like(std), std)


def _of_range(inputs: Mapping[str, Any], channels: int) -> tuple[Any, Any]:
    """Divided by the full range of the dtype, one for all; floating point images are in [0, 1]."""
    full = tf.ones_like(inputs["image/mean"], tf.float64)
    for dtype in sorted(_RANGES, key=str):
        is_it = inputs["image/dtype"] == dtype.name
        full = tf.where(is_it, tf.constant(float(np.iinfo(dtype).max), tf.float64), full)
    low, high = inputs["image/low"], inputs["image/high"]
    fits = (full > 1) | ((low >= 0) & (high <= 1))
    full = checked_tensor(
        full,
        tf.reduce_all(fits),
        'floating point grey values from {} to {}; "range" expects 0 to 1: use "image" or '
        '"dataset"',
        tf.reduce_min(low),
        tf.reduce_max(high),
    )
    least, greatest = tft.min(full, name="least_range"), tft.max(full, name="greatest_range")
    greatest = checked_tensor(
        greatest,
        least == greatest,
        'images with full ranges {} and {}; expected one dtype for "range": use "image"',
        least,
        greatest,
    )
    return tf.zeros([channels], tf.float64), tf.fill([channels], 1.0 / greatest)


def _measured(image: Any) -> Any:
    """[H, W, C] as it is, or [n, 1, C] without the pixels that were never measured (NaN)."""
    there = ~tf.reduce_any(tf.math.is_nan(image), axis=-1)
    return tf.cond(
        tf.reduce_all(there), lambda: image, lambda: tf.boolean_mask(image, there)[:, None]
    )


def _each(one: Any, inputs: Mapping[str, Any], spec: Any) -> Any:
    """Record after record: sizes differ, and no more than one image is decoded at a time."""
    batch = {f"image/{name}": inputs[f"image/{name}"] for name in _IMAGE}
    return tf.map_fn(one, batch, fn_output_signature=spec, parallel_iterations=1)


def _smallest_batch(output: tft.TFTransformOutput, channels: int) -> dict[str, Any]:
    """One record of one black pixel, as the graph takes it."""
    data = encode_example("", np.zeros((1, 1, channels), np.float32))
    spec = output.raw_feature_spec()
    spec = {
        name: tf.io.FixedLenFeature(kind.shape, kind.dtype, _nothing(kind))
        if isinstance(kind, tf.io.FixedLenFeature)
        else kind
        for name, kind in spec.items()
    }
    return tf.io.parse_example([data], spec)


def _nothing(kind: Any) -> Any:
    return np.full(kind.shape, b"" if kind.dtype == tf.string else 0)
