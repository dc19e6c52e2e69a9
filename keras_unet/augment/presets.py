"""The named sets of options, each a plain config."""

from __future__ import annotations

from typing import Any

from keras_unet.augment.settings import AugmentSettings, make_settings
from keras_unet.errors import ConfigError

PRESETS: dict[str, dict[str, Any]] = {
    "none": {},
    # The eight symmetries of the square, each exact: no interpolation at all.
    "flips": {"flip_vertical": 0.5, "flip_horizontal": 0.5, "rotate": "right_angles"},
    # Ronneberger et al. 2015, section 3.1: "shift and rotation invariance as well as robustness to
    # deformations and gray value variations"; elastic displacements "sampled from a Gaussian
    # distribution with 10 pixels standard deviation" on "a coarse 3 by 3 grid". The paper gives no
    # numbers for the rest; microscope images have no up, so every angle and both flips are used.
    "paper": {
        "flip_vertical": 0.5,
        "flip_horizontal": 0.5,
        "rotate": (-180.0, 180.0),
        "elastic_sigma": 10.0,
        "elastic_grid": (3, 3),
        "brightness": (-0.25, 0.25),
        "contrast": (0.8, 1.25),
        "gamma": (0.8, 1.25),
        "gamma_p": 0.3,
    },
    # Isensee et al. 2021, supplementary note 4, as in nnU-Net's default trainer (2D): each option
    # with its probability, angles of any size, no elastic field.
    "nnunet": {
        "flip_vertical": 0.5,
        "flip_horizontal": 0.5,
        "rotate": (-180.0, 180.0),
        "rotate_p": 0.2,
        "scale": (0.7, 1.4),
        "scale_p": 0.2,
        "noise": (0.0, 0.316),
        "noise_p": 0.1,
        "blur": (0.5, 1.0),
        "blur_p": 0.2,
        "multiply": (0.75, 1.25),
        "multiply_p": 0.15,
        "contrast": (0.75, 1.25),
        "contrast_p": 0.15,
        "low_resolution": (0.5, 1.0),
        "low_resolution_p": 0.25,
        "gamma": (0.7, 1.5),
        "gamma_p": 0.3,
        "gamma_inverted_p": 0.1,
        "per_channel": True,
    },
}


def preset_settings(name: str, **overrides: Any) -> AugmentSettings:
    """The settings of a preset with single options changed.

    Args:
        name: "paper", "none", "flips" or "nnunet".
        overrides: options of `AugmentSettings`.

    Raises:
        ConfigError: for an unknown preset or option.
    """
    if name not in PRESETS:
        raise ConfigError(f"unknown augmentation preset {name!r}; known: {', '.join(PRESETS)}")
    return make_settings(PRESETS[name], **overrides)
