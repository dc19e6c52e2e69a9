"""Sum of losses that is itself a loss, and that a saved model can hold."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras

from keras_unet.errors import ConfigError


@keras.saving.register_keras_serializable(package="keras_unet", name="SumLoss")
class Sum(keras.losses.Loss):
    """Σ weights[i] · losses[i](y_true, y_pred, sample_weight).

    Each term keeps its own reduction, dtype and ignored class; every term gets the sample weight.

        Sum([WeightedCrossEntropy(), Dice(class_weights=(0, 1))], weights=[1.0, 0.5])

    Args:
        losses: Keras losses, at least one; a `Sum` may be among them.
        weights: one finite number >= 0 for each; default all 1.

    Raises:
        ConfigError: no loss, something that is no loss, a loss that does not reduce to one number,
            or weights that do not fit.
    """

    def __init__(
        self,
        losses: Sequence[keras.losses.Loss],
        weights: Sequence[float] | None = None,
        name: str = "sum",
    ):
        super().__init__(name=name)
        self.losses = list(losses) if isinstance(losses, (list, tuple)) else []
        if not self.losses:
            raise ConfigError(f"losses must be a list of at least one Keras loss, got {losses!r}")
        for loss in self.losses:
            if not isinstance(loss, keras.losses.Loss):
                raise ConfigError(f"losses must be keras.losses.Loss objects, got {loss!r}")
            if loss.reduction in (None, "none"):
                raise ConfigError(f"{loss.name} has reduction=None: terms must be single numbers")
        self.weights = [1.0] * len(self.losses) if weights is None else [float(w) for w in weights]
        if len(self.weights) != len(self.losses):
            raise ConfigError(
                f"{len(self.weights)} weights were given for {len(self.losses)} losses"
            )
        if not all(0 <= w < math.inf for w in self.weights):
            raise ConfigError(f"weights must be finite numbers >= 0, got {weights!r}")

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        terms = zip(self.losses, self.weights, strict=True)
        return sum(w * loss(y_true, y_pred, sample_weight) for loss, w in terms)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """The sum without sample weights, one number."""
        return self(y_true, y_pred)

    def get_config(self) -> dict[str, Any]:
        return {
            "losses": [keras.saving.serialize_keras_object(loss) for loss in self.losses],
            "weights": self.weights,
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Sum:
        losses = [keras.saving.deserialize_keras_object(loss) for loss in config["losses"]]
        return cls(**{**config, "losses": losses})
