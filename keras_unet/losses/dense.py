"""What every loss over pixels shares: targets, probabilities, and one weight for each pixel."""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_unet.errors import ConfigError, DataError
from keras_unet.losses.labels import class_labels, num_classes, one_hot


class DenseLoss(keras.losses.Loss):
    """A loss over integer targets [B, H, W] and predictions [B, H, W, K].

    The weight of a pixel is v[y] · sample_weight, with v the class weights; an ignored pixel has
    weight 0 and is not counted. Subclasses get it through Keras's own reduction, or by `weigh`.
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
