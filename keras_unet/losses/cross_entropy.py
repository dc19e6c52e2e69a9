"""Cross-entropy: the U-Net paper's, pixel by pixel under a weight map, and the focal loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_unet.errors import ConfigError
from keras_unet.losses.dense import PixelLoss


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


@keras.saving.register_keras_serializable(package="keras_unet", name="FocalLoss")
class Focal(PixelLoss):
    """l(x) = −(1 − p_y)^γ · log p_y (Lin et al. 2017, "Focal Loss", equations 4 and 5).

    Args:
        gamma: γ >= 0; 0 is the cross-entropy.
        class_weights: the paper's α, one for each class.
        from_logits, ignore_class, reduction: as `WeightedCrossEntropy`, and so are the shapes, the
            weights and the errors.
    """

    def __init__(
        self,
        gamma: float = 2.0,
        from_logits: bool = True,
        class_weights: Sequence[float] | None = None,
        ignore_class: int | None = None,
        reduction: str | None = "sum_over_batch_size",
        name: str = "focal",
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
        if isinstance(gamma, (bool, str)) or not math.isfinite(gamma) or gamma < 0:
            raise ConfigError(f"gamma must be a finite number >= 0, got {gamma!r}")
        self.gamma = float(gamma)

    def values(self, labels: Any, y_pred: Any) -> Any:
        """(1 − p)^γ · −log p for each pixel, [B, H, W]."""
        target = self.one_hot(labels, self.num_classes(y_pred))
        log_p = ops.sum(target * self.log_probabilities(y_pred), axis=-1)
        if self.gamma == 0:
            return -log_p
        # 1 − p without cancellation; never 0, where the power has no gradient for γ < 1.
        wrong = ops.maximum(-ops.expm1(log_p), 1e-12)
        return -ops.power(wrong, self.gamma) * log_p

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "gamma": self.gamma}
