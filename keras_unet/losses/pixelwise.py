"""Losses that are a weighted mean of one value for each pixel."""

from __future__ import annotations

from typing import Any

from keras import ops

from keras_unet.losses import replicas
from keras_unet.losses.dense import DenseLoss


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
        return _ratio(part, ops.cast(size, self.dtype) * replicas.count())

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
    if replicas.count() == 1:
        return _ratio(part, size)
    parts, size = replicas.totals(ops.stop_gradient(part), size)
    own = _ratio(part, size)
    return own + ops.stop_gradient(_ratio(parts, size) / replicas.count() - own)


def _ratio(part: Any, whole: Any) -> Any:
    """part / whole, 0 for 0 / 0, and NaN where `part` is."""
    return part / ops.where(whole > 0, whole, 1.0)
