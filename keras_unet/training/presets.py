"""Named sets of settings that fill in what a configuration leaves open."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from keras_unet.training.trees import merged

Preset = Literal["paper"]

PRESETS: dict[str, dict[str, Any]] = {
    # Ronneberger et al. 2015. Section 2: network and sizes (64 channels, 4 poolings, no padding, no
    # normalisation). Section 3: "favor large input tiles over a large batch size and hence reduce
    # the batch to a single image", momentum 0.99, Gaussian weights of sqrt(2 / N) (every network
    # here has those), w0 = 10, sigma = 5. Section 3.1: elastic deformations, drop-out at the end
    # of the contracting path. Left open there, and chosen here: the learning rate, its schedule
    # (none is mentioned), and the drop-out rate (that of the authors' release).
    "paper": {
        "model": {
            "filters": 64,
            "depth": 4,
            "padding": "valid",
            "upsampling": "transpose",
            "normalization": "none",
            "dropout": 0.5,
        },
        "loss": {
            "w0": 10.0,
            "sigma": 5.0,
            "class_weights": "balanced",
            "label_smoothing": 0.0,
            "dice": 0.0,
            "focal": 0.0,
        },
        "augment": "paper",
        "oversample": 0.0,
        "batch_size": 1,
        "optimizer": "sgd",
        "momentum": 0.99,
        "learning_rate": 1e-3,
        "schedule": "constant",
        "warmup_steps": 0,
        "ema_decay": 0.0,
    },
}


def with_preset(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The tree of settings with what its preset says where it says nothing itself.

    An unknown preset is left for the validation of `TrainConfig` to name.
    """
    preset = PRESETS.get(tree.get("preset") or "", {}) if _is_name(tree.get("preset")) else {}
    return merged(preset, tree)


def _is_name(value: Any) -> bool:
    return value is None or isinstance(value, str)
