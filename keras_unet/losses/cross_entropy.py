"""The loss of the U-Net paper: pixel-wise softmax cross-entropy under a weight map."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_unet.errors import ConfigError
from keras_unet.losses.pixelwise import PixelLoss


@keras.saving.register_keras_serializable(package="keras_unet")
class WeightedCrossEntropy(PixelLoss):
    """E = Σ w(x) · −log p_y(x) (Ronneberger et al. 2015, section 3, equation 1), as a mean.

        l(x) = −Σ_k q_k log p_k,   q = (1 − ε) · onehot(y) + ε / K

    The weight map is Keras's `sample_weight`, [B, H, W]. Targets are integers [B, H, W] or
    [B, H, W, 1], predictions [B, H, W, K]; with K = 1 the single logit z stands for the logits
    [0, z] of two classes. Pixels that shall not count are told by `ignore_class`: a weight of 0
    doesn't excuse a label that is no class. Computed in float32 whatever the type of the
    predictions (float64 if that is floatx).

    Args:
        from_logits: False if the predictions are probabilities (they are clipped to 1e-7).
        class_weights: v, one for each class; multiplies the sample weight of the true class.
        ignore_class: label that is not counted, in the divisor neither; −1, or any label from 0.
        label_smoothing: ε, in [0, 1).
        reduction: see `PixelLoss`; "mean_with_sample_weight" divides by Σ w.

    Raises:
        ConfigError: an argument is out of range, or `class_weights` does not fit the predictions.
        DataError: targets or predictions have the wrong rank, or a label is neither a class nor
            ignored: 255, a fraction. In a compiled graph, which cannot raise, the loss is NaN then,
            and under TensorFlow without XLA a warning names the labels.
    """

    def __init__(
        self,
        from_logits: bool = True,
        class_weights: Sequence[float] | None = None,
        ignore_class: int | None = None,
        label_smoothing: float = 0.0,
        reduction: str | None = "sum_over_batch_size",
        name: str = "weighted_cross_entropy",
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
        self.label_smoothing = fraction("label_smoothing", label_smoothing)

    def values(self, labels: Any, y_pred: Any) -> Any:
        """−Σ q log p for each pixel, [B, H, W]."""
        count = self.num_classes(y_pred)
        if count == 2 and self.from_logits:
            # The same, written with z = log(p1 / p0): −log p0 = softplus(z), −log p1 = that − z.
            z = self.logit(y_pred)[..., 0]
            one = labels * (1.0 - self.label_smoothing) + self.label_smoothing / 2
            return ops.softplus(z) - one * z
        target = self.one_hot(labels, count)
        if self.label_smoothing:
            target = target * (1.0 - self.label_smoothing) + self.label_smoothing / count
        return -ops.sum(target * self.log_probabilities(y_pred), axis=-1)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "label_smoothing": self.label_smoothing}


def fraction(name: str, value: float) -> float:
    """A number in [0, 1), or ConfigError."""
    if isinstance(value, (bool, str)) or not math.isfinite(value) or not 0 <= value < 1:
        raise ConfigError(f"{name} must be in [0, 1), got {value!r}")
    return float(value)
