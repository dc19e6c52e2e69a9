"""Presets: networks of the papers, to the parameter, and two of a microscope's size."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from keras_unet.errors import ConfigError

_CROSS_DOWN = ("cross", "cross", "cross", None)
_SCALED_LINEAR = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "num_train_timesteps": 1000,
}
_LDM = {**_SCALED_LINEAR, "beta_start": 0.0015, "beta_end": 0.0195}
_STABLE = {
    **_SCALED_LINEAR,
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
_COSINE = {"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 1000}

_KL_F8 = {
    "filters": (128, 256, 512, 512),
    "layers_per_block": 2,
    "latent_channels": 4,
    "sample_size": 512,
}
_SD_UNET = {
    "input_shape": (None, None, 4),
    "filters": (320, 640, 1280, 1280),
    "attention": _CROSS_DOWN,
    "mid_block": "cross",
}

# Name -> the arguments of build_diffusion_unet ("unet"), build_autoencoder ("autoencoder"),
# build_text_encoder ("text_encoder"), and the noise schedule in diffusers' terms ("scheduler").
PRESETS: Mapping[str, Mapping[str, Mapping[str, Any]]] = MappingProxyType(
    {
        "ddpm-cifar10": {  # Ho et al. 2020: 35,746,307 parameters
            "unet": {
                "input_shape": (None, None, 3),
                "filters": (128, 256, 256, 256),
                "attention": (None, "self", None, None),
                "mid_block": "self",
                "norm_epsilon": 1e-6,
                "flip_sin_to_cos": False,
                "freq_shift": 1,
                "downsample_padding": 0,
                "sample_size": 32,
            },
            "scheduler": {
                "beta_schedule": "linear",
                "beta_start": 1e-4,
                "beta_end": 0.02,
                "num_train_timesteps": 1000,
            },
        },
        "ldm-4-ffhq": {  # Rombach et al. 2022, faces: 274,056,163
            "unet": {
                "input_shape": (None, None, 3),
                "filters": (224, 448, 672, 896),
                "attention": (None, "self", "self", "self"),
                "mid_block": "self",
                "head_dim": 32,
                "sample_size": 64,
            },
            "scheduler": _LDM,
        },
        "cin256": {  # Rombach et al. 2022, ImageNet by class (a context of one token): 400,920,579
            "unet": {
                "input_shape": (None, None, 3),
                "filters": (192, 384, 576, 960),
                "attention": (None, "cross", "cross", "cross"),
                "mid_block": "cross",
                "num_heads": 1,
                "context_dim": 512,
                "linear_projection": False,
                "sample_size": 64,
            },
            "scheduler": _LDM,
        },
        "sd-1": {  # Stable Diffusion 1.x: 859,520,964 + 83,653,863 + 123,060,480
            "unet": {
                **_SD_UNET,
                "num_heads": 8,
                "context_dim": 768,
                "linear_projection": False,
                "sample_size": 64,
            },
            "autoencoder": _KL_F8,
            "text_encoder": {
                "hidden_size": 768,
                "intermediate_size": 3072,
                "layers": 12,
                "heads": 12,
            },
            "scheduler": _STABLE,
        },
        "sd-2.1": {  # Stable Diffusion 2.1: 865,910,724 + 83,653,863 + 340,387,840
            "unet": {
                **_SD_UNET,
                "num_heads": (5, 10, 20, 20),
                "context_dim": 1024,
                "upcast_attention": True,
                "sample_size": 96,
            },
            "autoencoder": {**_KL_F8, "sample_size": 768},
            "text_encoder": {
                "hidden_size": 1024,
                "intermediate_size": 4096,
                "layers": 23,
                "heads": 16,
                "activation": "gelu",
            },
            "scheduler": {**_STABLE, "prediction_type": "v_prediction"},
        },
        "sdxl": {  # Podell et al. 2023: 2,567,463,684
            "unet": {
                "input_shape": (None, None, 4),
                "filters": (320, 640, 1280),
                "attention": (None, "cross", "cross"),
                "mid_block": "cross",
                "num_heads": (5, 10, 20),
                "transformer_layers": (1, 2, 10),
                "context_dim": 2048,
                "added_features": 2816,
                "time_id_dim": 256,
                "sample_size": 128,
            },
            "autoencoder": {**_KL_F8, "sample_size": 1024, "scaling_factor": 0.13025},
            "scheduler": _STABLE,
        },
        "microscopy-pixel-64": {  # grey tiles of 64², given a mask as second channel
            "unet": {
                "input_shape": (None, None, 2),
                "out_channels": 1,
                "filters": (64, 128, 192),
                "attention": (None, "self", "self"),
                "head_dim": 32,
                "sample_size": 64,
            },
            "scheduler": _COSINE,
        },
        "microscopy-latent-128": {  # grey images of 128² as latents of 32², and a mask of that size
            "unet": {
                "input_shape": (None, None, 5),
                "out_channels": 4,
                "filters": (96, 192, 288),
                "attention": (None, "self", "self"),
                "head_dim": 32,
                "sample_size": 32,
            },
            "autoencoder": {
                "input_shape": (None, None, 1),
                "filters": (32, 64, 128),
                "layers_per_block": 1,
                "latent_channels": 4,
                "mid_attention": False,  # so that what a pixel sees is bounded: tiles fit
                "norm_groups": 16,
                "sample_size": 128,
                "scaling_factor": 1.0,
            },
            "scheduler": _COSINE,
        },
    }
)


def preset_options(preset: str, part: str) -> dict[str, Any]:
    """The arguments of a preset's part: "unet", "autoencoder", "text_encoder" or "scheduler".

    Raises:
        ConfigError: there is no such preset, or it has no such part.
    """
    if preset not in PRESETS:
        raise ConfigError(f"no preset {preset!r}; there are {', '.join(PRESETS)}")
    if part not in PRESETS[preset]:
        raise ConfigError(f"preset {preset!r} has no {part}; it has {', '.join(PRESETS[preset])}")
    return dict(PRESETS[preset][part])


def completed(builder: Callable[..., Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """The builder's arguments with its defaults, without `dtype` and `name`.

    Raises:
        ConfigError: an option is no argument of the builder; all such are named.
    """
    parameters = {
        name: parameter.default
        for name, parameter in inspect.signature(builder).parameters.items()
        if name not in ("dtype", "name")
    }
    unknown = sorted(set(options) - set(parameters))
    if unknown:
        raise ConfigError(
            f"{builder.__name__} has no option {', '.join(unknown)}; it has {', '.join(parameters)}"
        )
    return {**parameters, **options}


def with_sizes(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a network over images; shape, filters and sample size as plain numbers and lists.

    Raises:
        ConfigError: no such shape, or widths that no group norm divides.
    """
    o = dict(options)
    shape = list(o["input_shape"])
    if len(shape) != 3 or not shape[2]:
        raise ConfigError(f"input_shape must be (height, width, channels), got {shape!r}")
    o["input_shape"] = shape
    o["out_channels"] = o["out_channels"] or shape[2]
    o["filters"] = list(o["filters"])
    require_count("out_channels", o["out_channels"])
    for count in o["filters"]:
        require_count("filters", count)
        if count % o["norm_groups"]:
            raise ConfigError(
                f"filters must divide by norm_groups ({o['norm_groups']}), got {count}"
            )
    size = o["sample_size"]
    o["sample_size"] = size if size is None or isinstance(size, int) else list(size)
    return o


def require_count(name: str, number: Any) -> None:
    """Raises ConfigError unless it is an integer of at least 1."""
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        raise ConfigError(f"{name} must be an integer >= 1, got {number!r}")
