"""Labels as losses and metrics read them: classes, ignored pixels, and what is neither."""

from __future__ import annotations

import math
import warnings
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_unet.errors import DataError


def num_classes(y_pred: Any, name: str) -> int:
    """K of predictions [B, H, W, K]; one channel is class 1 against class 0: 2 classes.

    Raises:
        DataError: another rank, or an unknown number of channels.
    """
    channels = y_pred.shape[-1] if len(y_pred.shape) == 4 else None
    if channels is None:
        raise DataError(
            f"{name}: predictions must be [batch, height, width, classes] with a known "
            f"number of classes, got shape {tuple(y_pred.shape)}"
        )
    return max(int(channels), 2)


def class_labels(
    y_true: Any, y_pred: Any, *, ignore_class: int | None, dtype: str, name: str
) -> tuple[Any, Any | None]:
    """(labels [B, H, W] in `dtype`, mask of counted pixels or None).

    Ignored labels become 0. What is neither a class nor ignored (255 of 2 classes, a fraction, NaN)
    becomes NaN, and so does what is computed of it: a weight of 0 does not hide it, as 0 · NaN is
    NaN, and metrics without weights would count it. A compiled graph cannot raise; under TensorFlow
    without XLA it warns, with the values.

    Raises:
        DataError: outside a compiled graph, a label that is no class; targets of another rank.
    """
    count = num_classes(y_pred, name)
    given = ops.convert_to_tensor(y_true)
    if len(given.shape) == 4 and given.shape[-1] == 1:
        given = ops.squeeze(given, axis=-1)
    if len(given.shape) != 3:
        raise DataError(
            f"{name}: expected targets [batch, height, width] of class numbers, got shape "
            f"{tuple(given.shape)} for predictions {tuple(y_pred.shape)}"
        )
    labels = ops.cast(given, dtype)  # never to integers: 254/255 would be class 0
    counted = None
    if ignore_class is not None:
        counted = ops.not_equal(labels, ignore_class)
        labels = ops.where(counted, labels, 0.0)
    whole = ops.equal(labels, ops.floor(labels))
    known = ops.logical_and(whole, ops.logical_and(labels >= 0, labels < count))
    labels = ops.where(known, labels, math.nan)
    _report(given, ops.logical_not(known), count, ignore_class, name)
    return labels, counted


def one_hot(labels: Any, count: int, dtype: str) -> Any:
    """[B, H, W, count] of integers or whole floats; a label that is no class has no 1."""
    # a constant: keras.ops.arange takes int16 under floatx float16, which TensorFlow cannot count
    classes = ops.cast(np.arange(count, dtype="int32"), labels.dtype)
    return ops.cast(ops.equal(labels[..., None], classes), dtype)


def tell(text: str) -> None:
    """What a compiled graph could not raise; Python shows the same words once."""
    warnings.warn(text, stacklevel=1)


def values_now(x: Any) -> np.ndarray | None:
    """As an array; None while a graph is traced, when there are no values yet."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return x.numpy() if tf.executing_eagerly() else None
    try:
        return ops.convert_to_numpy(x)
    except (NotImplementedError, TypeError):  # torch's meta device, JAX's tracers
        return None


def _report(given: Any, strange: Any, count: int, ignore_class: int | None, name: str) -> None:
    found = values_now(ops.any(strange))
    if found is None:
        _report_when_run(given, strange, count, ignore_class)
    elif found:
        values = ops.convert_to_numpy(given)[ops.convert_to_numpy(strange)]
        raise DataError(f"{name}: {_describe(values, count, ignore_class)}")


def _report_when_run(given: Any, strange: Any, count: int, ignore_class: int | None) -> None:
    """A branch of the graph that is taken where there is something to say."""
    if keras.backend.backend() != "tensorflow":
        return
    import tensorflow as tf
    from tensorflow.python.ops.control_flow_util import GraphOrParentsInXlaContext

    if GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph()):
        return  # XLA has no way back into Python

    def say(values: np.ndarray) -> np.bool_:
        tell(f"{_describe(values, count, ignore_class)}. Until then loss and metrics are NaN")
        return np.True_

    def warn() -> tf.Tensor:
        return tf.numpy_function(say, [tf.boolean_mask(given, strange)], tf.bool)

    tf.cond(tf.reduce_any(strange), warn, lambda: tf.constant(True))


def _describe(values: np.ndarray, count: int, ignore_class: int | None) -> str:
    seen = np.unique(values.astype("float64"))
    names = [f"{value:.{17 if value == np.floor(value) else 9}g}" for value in seen[:5]]
    listed = ", ".join(names) + (" …" if len(seen) > 5 else "")
    expected = f"the {count} classes 0 to {count - 1}"
    if ignore_class is not None:
        expected += f" and ignore_class={ignore_class}"
    cures = ["map them to class numbers"]
    if (seen != np.floor(seen)).any():
        cures = ["give labels unscaled, and resize them by nearest neighbour"]
    elif len(seen) == 1 and ignore_class is None:
        cures += [f"set ignore_class={names[0]} if such pixels shall not count"]
    return f"the labels hold {listed}, expected {expected}: {', or '.join(cures)}"
