"""Focal loss: cross-entropy that fades on pixels which are already right."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_unet.errors import ConfigError
from keras_unet.losses.pixelwise import PixelLoss


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
