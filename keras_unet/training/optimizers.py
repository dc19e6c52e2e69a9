"""The optimizer that a configuration asks for; its state is all in `optimizer.variables`."""

from __future__ import annotations

from typing import Any

import keras

from keras_unet.training.adamw import AdamW
from keras_unet.training.config import TrainConfig


def make_optimizer(config: TrainConfig, policy: str) -> keras.optimizers.Optimizer:
    """AdamW, SGD with momentum (the paper, section 3) or Nesterov's.

    Clipping is by the norm of all gradients together, after accumulation. The learning rate is set
    before each step by `callbacks.Budget`.

    Args:
        config: `optimizer`, `learning_rate`, `momentum`, `weight_decay`, `gradient_clip`,
            `accumulate`.
        policy: the layers' dtype policy; under "mixed_float16" the loss is scaled, and a step
            whose gradients overflow is left out and the scale halved.
    """
    options: dict[str, Any] = {
        "global_clipnorm": config.gradient_clip,
        "gradient_accumulation_steps": config.accumulate if config.accumulate > 1 else None,
    }
    if config.optimizer == "adam":
        made = AdamW(config.learning_rate, config.weight_decay, **options)
    else:
        if nesterov := config.optimizer == "nesterov":
            options["weight_decay"] = config.weight_decay
        made = keras.optimizers.SGD(
            config.learning_rate, momentum=config.momentum, nesterov=nesterov, **options
        )
    return keras.optimizers.LossScaleOptimizer(made) if policy == "mixed_float16" else made
