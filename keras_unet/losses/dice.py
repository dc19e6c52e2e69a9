"""Soft Dice: the overlap of probabilities and truth, as a loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_unet.errors import ConfigError
from keras_unet.losses import dense
from keras_unet.losses.dense import DenseLoss


@keras.saving.register_keras_serializable(package="keras_unet", name="DiceLoss")
class Dice(DenseLoss):
    """1 − the mean over classes of D_k = (2 Σ w p_k g_k + s) / (Σ w p_k + Σ w g_k + s).

    After Milletari et al. 2016, "V-Net", section 3, with unsquared sums. g is 1 on the pixels of
    class k. The sample weight w multiplies every pixel's share in all three sums, so a weight map
    gives the borders more say, and a constant weight changes nothing but the share of s; an ignored
    pixel has w = 0. Shapes and errors as in `WeightedCrossEntropy`.

    Args:
        smooth: s > 0, in (weighted) pixels. A class that is in neither truth nor prediction has
            D = 1.
        over: "batch" sums over all images of the batch (of all devices of a `tf.distribute`
            strategy), which is steadier where a class is absent from many tiles; "sample" over each
            image, whose losses are then averaged.
        class_weights: weights of the mean over the classes; default all 1. (0, 1) leaves the
            background out.
        reduction: of the values [1] or [B]; None hands them on.
    """

    def __init__(
        self,
        smooth: float = 1.0,
        over: str = "batch",
        from_logits: bool = True,
        class_weights: Sequence[float] | None = None,
        ignore_class: int | None = None,
        reduction: str | None = "sum_over_batch_size",
        name: str = "dice_loss",
        dtype: Any = None,
    ):
        super().__init__(
            from_logits=from_logits,
            class_weights=class_weights,
            ignore_class=ignore_class,
            reduction=reduction,
            name=name,
            dtype=dtype,
        )
        if isinstance(smooth, (bool, str)) or not math.isfinite(smooth) or smooth <= 0:
            raise ConfigError(f"smooth must be a finite number > 0, got {smooth!r}")
        if over not in ("batch", "sample"):
            raise ConfigError(f'over must be "batch" or "sample", got {over!r}')
        self.smooth = float(smooth)
        self.over = over

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        y_pred = ops.convert_to_tensor(y_pred, dtype=self.dtype)
        labels, counted = self.labels(y_true, y_pred)
        weight = self.pixel_weight(labels, counted, sample_weight, count=None)
        # The weights are inside the sums: they travel beside the target, not to Keras's reduction.
        loss = super().__call__((labels,) if weight is None else (labels, weight), y_pred)
        if self.over == "batch" and self.reduction == "sum":  # Keras scales a mean alone
            return loss / dense.num_replicas()
        return loss

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """The loss, [1] or [B]; `y_true` is the target, or (`labels` of it, pixel weights)."""
        read = isinstance(y_true, (tuple, list))
        labels, *weights = y_true if read else self.labels(y_true, y_pred)[:1]
        truth = self.one_hot(labels, self.num_classes(y_pred))
        share = self.probabilities(y_pred)
        overlap, size = truth * share, truth + share
        for weight in weights:
            overlap, size = overlap * weight[..., None], size * weight[..., None]
        axes = (0, 1, 2) if self.over == "batch" else (1, 2)
        overlap, size = ops.sum(overlap, axis=axes), ops.sum(size, axis=axes)
        if self.over == "batch":
            overlap, size = dense.sum_over_replicas(overlap, size)
        loss = 1.0 - (2.0 * overlap + self.smooth) / (size + self.smooth)
        if self.class_weights is None:
            loss = ops.mean(loss, axis=-1)
        else:
            table = ops.convert_to_tensor(self.class_weights, dtype=self.dtype)
            loss = ops.sum(loss * table, axis=-1) / sum(self.class_weights)
        return ops.reshape(loss, (-1,))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "smooth": self.smooth, "over": self.over}
