"""Losses that are a weighted mean of one value for each pixel."""

from __future__ import annotations

from typing import Any

from keras import ops

from keras_unet.losses.dense import DenseLoss


class PixelLoss(DenseLoss):
    """Reduces `call`'s values l(x), [B, H, W], with the weights w(x) = v[y(x)] · sample_weight(x).

    reduction:
        "sum_over_batch_size" or "mean": Σ w·l / number of counted pixels.
        "mean_with_sample_weight": Σ w·l / Σ w, class weights included.
        "sum": Σ w·l. None: w·l, [B, H, W].
    The sums run over the pixels of the batch whose label is not `ignore_class`; with none, the loss
    is 0.
    """

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        y_pred = ops.convert_to_tensor(y_pred)
        y_true = ops.convert_to_tensor(y_true)
        weight = self.pixel_weight(y_true, y_pred, sample_weight, classes=True)
        if self.ignore_class is not None and self.reduction in ("sum_over_batch_size", "mean"):
            # Keras divides by all pixels; make that the counted ones.
            counted = ops.cast(self.labels(y_true, y_pred)[1], self.dtype)
            weight = ops.divide_no_nan(weight, ops.mean(counted))
        return super().__call__(y_true, y_pred, sample_weight=weight)
