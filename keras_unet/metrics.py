"""Metrics for `compile`, all read from one confusion matrix that is summed over the batches.

Targets are integers [B, H, W] or [B, H, W, 1], predictions [B, H, W, K]. The predicted class is the
largest of the K; with K = 1 it is 1 where the logit is above 0 (the probability above 0.5).
In `compile`, use objects: `metrics=[PixelError(), IoU(class_id=1)]`; as `weighted_metrics` they
honour the sample weight.

A class that is neither in truth nor in the prediction has IoU and Dice NaN and is left out of the
means; one that is in either of them counts. Before any pixel is counted, every result is NaN.
"""

from __future__ import annotations

import math
import numbers
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_unet.errors import ConfigError, DataError
from keras_unet.losses.dense import class_labels, num_classes, one_hot, tell, values_now


class ConfusionMetric(keras.metrics.Metric):
    """Sums the confusion matrix, float32 [K, K], rows = truth; subclasses say what to read from it.

    They also say which way is better, for Keras's callbacks in mode "auto".

    Args:
        num_classes: K; None takes it from the first predictions.
        ignore_class: truth label that is not counted; −1, or any label from 0.
        from_logits: matters only for one channel, where it sets the threshold.

    Raises:
        ConfigError: an argument is out of range.
        DataError: targets or predictions have the wrong rank or number of classes, or a label is
            neither a class nor ignored: 255, a fraction. In a compiled graph, which cannot raise,
            the result is NaN then, up to the next reset, and a warning says why.
    """

    _direction = "up"  # where Keras looks for it, up or down

    def __init__(
        self,
        num_classes: int | None = None,
        ignore_class: int | None = None,
        from_logits: bool = True,
        name: str | None = None,
        dtype: Any = None,
    ):
        if name is not None and not isinstance(name, str):
            raise ConfigError(
                f"the name of a metric must be a text, got {name!r}; the number of classes is "
                "given as num_classes=…"
            )
        # Counts need float32 whatever the policy: bfloat16 stops counting at 256.
        super().__init__(name=name, dtype=dtype or "float32")
        _check("num_classes", num_classes, least=2)
        _check("ignore_class", ignore_class, least=-1)
        self.num_classes = num_classes
        self.ignore_class = ignore_class
        self.from_logits = from_logits
        self._confusion: Any = None
        if num_classes is not None:
            self._create(num_classes)

    def _create(self, count: int) -> None:
        self._confusion = self.add_variable(
            (count, count), initializer="zeros", dtype=self.dtype, name="confusion"
        )

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Adds a batch.

        Args:
            sample_weight: [B, H, W], [B, H, W, 1], [B] or [B, 1]; None counts each pixel once.
        """
        y_pred = ops.convert_to_tensor(y_pred)
        truth, counted = class_labels(
            y_true, y_pred, ignore_class=self.ignore_class, dtype=self.dtype, name=self.name
        )
        count, channels = num_classes(y_pred, self.name), y_pred.shape[-1]
        if self._confusion is None:
            self._create(count)
        if self._confusion.shape[0] != count:
            raise DataError(
                f"{self.name}: counts {self._confusion.shape[0]} classes, but the prediction has "
                f"{count} (shape {tuple(y_pred.shape)})"
            )
        if channels == 1:
            chosen = ops.cast(y_pred[..., 0] > (0.0 if self.from_logits else 0.5), "int32")
        else:
            chosen = ops.cast(ops.argmax(y_pred, axis=-1), "int32")
        weight = self._weight(counted, sample_weight)
        found = _confusion(truth, chosen, weight, count, self.dtype)
        self._confusion.assign_add(ops.where(ops.any(ops.isnan(truth)), math.nan, found))

    def _weight(self, counted: Any | None, sample_weight: Any) -> Any | None:
        weight = None
        if sample_weight is not None:
            weight = ops.cast(sample_weight, self.dtype)
            if len(weight.shape) == 4:
                weight = ops.squeeze(weight, axis=-1)
            elif len(weight.shape) in (1, 2):
                weight = ops.reshape(weight, (-1, 1, 1))
        if counted is not None:
            shares = ops.cast(counted, self.dtype)  # also where `weight` is one for each sample
            weight = shares if weight is None else weight * shares
        return weight

    def result(self) -> Any:
        """One number."""
        if self._confusion is None:
            return ops.convert_to_tensor(math.nan, dtype=self.dtype)
        confusion = ops.convert_to_tensor(self._confusion)
        _explain_nan(confusion)
        return self.score(confusion)

    def score(self, confusion: Any) -> Any:
        """The metric of a confusion matrix [K, K], rows = truth."""
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "num_classes": self.num_classes,
            "ignore_class": self.ignore_class,
            "from_logits": self.from_logits,
        }


@keras.saving.register_keras_serializable(package="keras_unet")
class PixelAccuracy(ConfusionMetric):
    """Share of the pixels whose class is right."""

    def __init__(self, name: str = "pixel_accuracy", **kwargs: Any):
        super().__init__(name=name, **kwargs)

    def score(self, confusion: Any) -> Any:
        return _ratio(ops.trace(confusion), ops.sum(confusion))


@keras.saving.register_keras_serializable(package="keras_unet")
class PixelError(ConfusionMetric):
    """Share of the pixels whose class is wrong: the pixel error of ISBI 2012, at threshold 0.5."""

    _direction = "down"

    def __init__(self, name: str = "pixel_error", **kwargs: Any):
        super().__init__(name=name, **kwargs)

    def score(self, confusion: Any) -> Any:
        total = ops.sum(confusion)
        return _ratio(total - ops.trace(confusion), total)


class ClassMetric(ConfusionMetric):
    """A score for each class: that of `class_id`, or with None the mean over the classes."""

    def __init__(self, class_id: int | None = None, name: str | None = None, **kwargs: Any):
        super().__init__(name=name, **kwargs)
        _check("class_id", class_id, least=0)
        if class_id is not None and self.num_classes is not None and class_id >= self.num_classes:
            raise ConfigError(f"class_id {class_id} is not among {self.num_classes} classes")
        self.class_id = class_id

    def per_class(self, hits: Any, truth: Any, chosen: Any) -> Any:
        """[K] scores from each class's pixels: right, in truth, in the prediction."""
        raise NotImplementedError

    def score(self, confusion: Any) -> Any:
        if self.class_id is not None and self.class_id >= confusion.shape[0]:
            raise ConfigError(
                f"{self.name}: class_id {self.class_id} is not among {confusion.shape[0]} classes"
            )
        values = self.per_class(
            ops.diagonal(confusion), ops.sum(confusion, axis=1), ops.sum(confusion, axis=0)
        )
        if self.class_id is not None:
            return values[self.class_id]
        present = ops.logical_not(ops.isnan(values))
        return _ratio(
            ops.sum(ops.where(present, values, 0.0)), ops.sum(ops.cast(present, values.dtype))
        )

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "class_id": self.class_id}


@keras.saving.register_keras_serializable(package="keras_unet")
class IoU(ClassMetric):
    """Intersection over union, |A ∩ B| / |A ∪ B| (Jaccard)."""

    def __init__(self, class_id: int | None = None, name: str | None = None, **kwargs: Any):
        super().__init__(class_id, name=name or _name("iou", class_id), **kwargs)

    def per_class(self, hits: Any, truth: Any, chosen: Any) -> Any:
        return _ratio(hits, truth + chosen - hits)


@keras.saving.register_keras_serializable(package="keras_unet")
class MeanIoU(IoU):
    """Mean of the classes' IoU."""

    def __init__(self, name: str = "mean_iou", **kwargs: Any):
        super().__init__(kwargs.pop("class_id", None), name=name, **kwargs)
        if self.class_id is not None:
            raise ConfigError("MeanIoU is over all classes; for one of them use IoU(class_id=...)")


@keras.saving.register_keras_serializable(package="keras_unet", name="DiceScore")
class Dice(ClassMetric):
    """Dice coefficient of the predicted classes, 2 |A ∩ B| / (|A| + |B|) (F1)."""

    def __init__(self, class_id: int | None = None, name: str | None = None, **kwargs: Any):
        super().__init__(class_id, name=name or _name("dice", class_id), **kwargs)

    def per_class(self, hits: Any, truth: Any, chosen: Any) -> Any:
        return _ratio(2.0 * hits, truth + chosen)


def _confusion(truth: Any, chosen: Any, weight: Any | None, count: int, dtype: str) -> Any:
    one, other = one_hot(truth, count, dtype), one_hot(chosen, count, dtype)
    if weight is not None:
        one = one * weight[..., None]
    # Row by row of the image: a float32 counts exactly only up to 2^24, and sums of exact row
    # counts keep its relative precision beyond.
    rows = [ops.sum(one[..., k, None] * other, axis=2) for k in range(count)]
    return ops.sum(ops.stack(rows, axis=2), axis=(0, 1))


def _explain_nan(confusion: Any) -> None:
    """Where XLA or JAX kept `class_labels` from it; Keras asks for results after each epoch."""
    found = values_now(confusion)
    if found is not None and np.isnan(found).any():
        tell(
            "metrics are NaN, since a label was neither a class nor ignore_class (or a sample "
            "weight was NaN): call the metric or the loss on a batch to see which labels"
        )


def _ratio(part: Any, whole: Any) -> Any:
    some = whole > 0
    return ops.where(some, part / ops.where(some, whole, 1.0), math.nan)


def _name(score: str, class_id: int | None) -> str:
    return f"mean_{score}" if class_id is None else f"{score}_{class_id}"


def _check(name: str, value: int | None, least: int) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < least:
        raise ConfigError(f"{name} must be None or an integer from {least}, got {value!r}")
