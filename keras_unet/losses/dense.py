"""Base classes of the losses over pixels: labels, probabilities, pixel weights and the reduction.

Labels are read here as losses and metrics read them: classes, ignored pixels, and what is neither.
"""

from __future__ import annotations

import math
import numbers
import warnings
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_unet.errors import ConfigError, DataError


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


def num_replicas() -> int:
    """Devices that compute this loss together, each on its share of the batch."""
    context = _replica_context()
    return 1 if context is None else int(context.num_replicas_in_sync)


def sum_over_replicas(*parts: Any) -> tuple[Any, ...]:
    """The sum of each part over them, in one exchange and with its gradient; all of one shape."""
    context = _replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return parts
    summed = context.all_reduce("SUM", keras.ops.stack(parts))
    return tuple(summed[i] for i in range(len(parts)))


def _replica_context() -> Any:
    if keras.backend.backend() != "tensorflow":
        return None
    import tensorflow as tf

    return tf.distribute.get_replica_context()


class DenseLoss(keras.losses.Loss):
    """A loss over integer targets [B, H, W] and predictions [B, H, W, K].

    The weight of a pixel is v[y] · sample_weight, with v the class weights; an ignored pixel has
    weight 0 and is not counted. Subclasses get it through Keras's own reduction, or by
    `pixel_weight`.
    """

    def __init__(
        self,
        *,
        from_logits: bool = True,
        class_weights: Sequence[float] | None = None,
        ignore_class: int | None = None,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = None,
        dtype: Any = None,
    ):
        # Not floatx as it is: a float16 loss over many pixels overflows.
        default = "float64" if keras.config.floatx() == "float64" else "float32"
        super().__init__(name=name, reduction=reduction, dtype=dtype or default)
        if not isinstance(from_logits, bool):
            raise ConfigError(f"from_logits must be True or False, got {from_logits!r}")
        self.from_logits = from_logits
        self.class_weights = _class_weights(class_weights)
        self.ignore_class = _ignore_class(ignore_class)

    def get_config(self) -> dict[str, Any]:
        weights = self.class_weights
        return {
            **super().get_config(),
            "from_logits": self.from_logits,
            "class_weights": None if weights is None else list(weights),
            "ignore_class": self.ignore_class,
            "dtype": self.dtype,
        }

    def num_classes(self, y_pred: Any) -> int:
        """K of the prediction, which the class weights must fit."""
        count = num_classes(y_pred, self.name)
        if self.class_weights is not None and len(self.class_weights) != count:
            raise ConfigError(
                f"{self.name}: class_weights has {len(self.class_weights)} weights, but the "
                f"prediction has {count} classes (shape {tuple(y_pred.shape)})"
            )
        return count

    def labels(self, y_true: Any, y_pred: Any) -> tuple[Any, Any | None]:
        """Labels [B, H, W] and mask of counted pixels, see `class_labels`."""
        return class_labels(
            y_true, y_pred, ignore_class=self.ignore_class, dtype=self.dtype, name=self.name
        )

    def logit(self, y_pred: Any) -> Any:
        """log(p1 / p0) of two classes, [B, H, W, 1], from logits with K <= 2.

        The softmax of two classes depends on this alone, and is several times faster from it.
        """
        return y_pred if y_pred.shape[-1] == 1 else y_pred[..., 1:] - y_pred[..., :1]

    def log_probabilities(self, y_pred: Any) -> Any:
        """log p, [B, H, W, max(K, 2)]."""
        if self.from_logits:
            if y_pred.shape[-1] <= 2:
                z = self.logit(y_pred)
                return ops.concatenate([-ops.softplus(z), -ops.softplus(-z)], axis=-1)
            return ops.log_softmax(y_pred, axis=-1)
        return ops.log(ops.clip(self.probabilities(y_pred), keras.config.epsilon(), 1.0))

    def probabilities(self, y_pred: Any) -> Any:
        """p, [B, H, W, max(K, 2)]."""
        if self.from_logits:
            if y_pred.shape[-1] <= 2:
                z = self.logit(y_pred)
                return ops.concatenate([ops.sigmoid(-z), ops.sigmoid(z)], axis=-1)
            return ops.softmax(y_pred, axis=-1)
        if y_pred.shape[-1] == 1:
            return ops.concatenate([1.0 - y_pred, y_pred], axis=-1)
        return y_pred

    def one_hot(self, labels: Any, count: int) -> Any:
        """[B, H, W, count]; NaN for a label that is no class, so that the mistake is seen."""
        hot = one_hot(labels, count, self.dtype)
        return ops.where(ops.isnan(labels)[..., None], math.nan, hot)

    def pixel_weight(
        self, labels: Any, counted: Any | None, sample_weight: Any, count: int | None
    ) -> Any | None:
        """v[y] · sample_weight · counted, [B, H, W], or None if all of them are 1.

        Args:
            labels, counted: see `labels`.
            sample_weight: [B, H, W], [B, H, W, 1], [B], [B, 1] or a number, or None.
            count: number of classes; None leaves the class weights v out.
        """
        weight = None
        if sample_weight is not None:
            weight = ops.convert_to_tensor(sample_weight, dtype=self.dtype)
            if len(weight.shape) == 4:
                weight = ops.squeeze(weight, axis=-1)
            elif len(weight.shape) == 1 or (len(weight.shape) == 2 and weight.shape[1] == 1):
                weight = ops.reshape(weight, (-1, 1, 1))  # one for each sample
            elif len(weight.shape) == 2:
                raise DataError(
                    f"{self.name}: sample_weight must be [batch, height, width] or [batch], got "
                    f"shape {tuple(weight.shape)}"
                )
            # In full, or Keras would divide by the sum over samples instead of over pixels.
            weight = weight * ops.ones_like(labels, dtype=self.dtype)
        if count is not None and self.class_weights is not None:
            table = ops.convert_to_tensor(self.class_weights, dtype=self.dtype)
            by_class = ops.take(table, ops.clip(ops.cast(labels, "int32"), 0, count - 1))
            weight = by_class if weight is None else weight * by_class
        if counted is not None:
            shares = ops.cast(counted, self.dtype)  # two numbers in `where` would be of floatx
            weight = shares if weight is None else ops.where(counted, weight, 0.0)
        return weight


def _class_weights(weights: Sequence[float] | None) -> tuple[float, ...] | None:
    if weights is None:
        return None
    try:
        values = tuple(float(w) for w in weights)
    except (TypeError, ValueError):
        values = ()
    if isinstance(weights, str) or len(values) < 2 or not all(0 <= w < math.inf for w in values):
        raise ConfigError(
            f"class_weights must be None or one finite number >= 0 for each class, got {weights!r}"
        )
    if not any(values):
        raise ConfigError(f"class_weights must not all be 0, got {weights!r}")
    return values


def _ignore_class(value: int | None) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < -1:
        raise ConfigError(f"ignore_class must be None, -1 or a label from 0, got {value!r}")
    return int(value)


class PixelLoss(DenseLoss):
    """Reduces `values` l(x), [B, H, W], with the weights w(x) = v[y(x)] · sample_weight(x).

    reduction:
        "sum_over_batch_size" or "mean": Σ w·l / number of counted pixels.
        "mean_with_sample_weight": Σ w·l / Σ w, class weights included.
        "sum": Σ w·l. None: w·l, [B, H, W].
    The sums run over the pixels of the batch whose label is not `ignore_class`; with none, the loss
    is 0. On several devices of a `tf.distribute` strategy they run over the pixels of all, and each
    device's part of the mean is such that their sum is the loss, as for Keras's own losses.
    """

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        y_pred = ops.convert_to_tensor(y_pred, dtype=self.dtype)
        labels, counted = self.labels(y_true, y_pred)
        count = self.num_classes(y_pred)
        weight = self.pixel_weight(labels, counted, sample_weight, count)
        values = self.values(labels, y_pred)
        if weight is not None:
            values = values * weight
        if self.reduction in (None, "none"):
            return values
        part = ops.sum(values)
        if self.reduction == "sum":
            return part
        if self.reduction == "mean_with_sample_weight" and weight is not None:
            return _share(part, ops.sum(weight))
        if counted is not None:
            return _share(part, ops.sum(ops.cast(counted, self.dtype)))
        # devices have equal shares of a batch: their number of pixels needs no exchange
        size = ops.prod(ops.convert_to_tensor(ops.shape(values), dtype="int32"))
        return _ratio(part, ops.cast(size, self.dtype) * num_replicas())

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """`values` of targets."""
        return self.values(self.labels(y_true, y_pred)[0], y_pred)

    def values(self, labels: Any, y_pred: Any) -> Any:
        """l(x) for each pixel, [B, H, W], without weights; `labels` as `DenseLoss.labels` gives."""
        raise NotImplementedError


def _share(part: Any, size: Any) -> Any:
    """This device's part of Σ part / Σ size over all devices.

    Its gradient is that of its own pixels; its value an equal share, since Keras reports the mean
    of the devices' values by their images, which may hold more or less pixels that count.
    """
    if num_replicas() == 1:
        return _ratio(part, size)
    parts, size = sum_over_replicas(ops.stop_gradient(part), size)
    own = _ratio(part, size)
    return own + ops.stop_gradient(_ratio(parts, size) / num_replicas() - own)


def _ratio(part: Any, whole: Any) -> Any:
    """part / whole, 0 for 0 / 0, and NaN where `part` is."""
    return part / ops.where(whole > 0, whole, 1.0)
