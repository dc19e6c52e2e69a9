"""`scheduler_config.json` of a diffusers folder: its schedule, sampler and prediction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from pydantic import ValidationError

from keras_unet.diffusion.samplers import DDIM, DDPM, PNDM, DPMSolver, Euler, Sampler
from keras_unet.diffusion.schedule import NoiseSchedule, Prediction
from keras_unet.errors import ConfigError

KINDS = {"linear": "linear", "scaled_linear": "scaled_linear", "squaredcos_cap_v2": "cosine"}
PREDICTIONS: dict[str, Prediction] = {
    "epsilon": "epsilon",
    "sample": "sample",
    "v_prediction": "v",
}

_PROCESS = {
    "num_train_timesteps": 1000,
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "trained_betas": None,
    "prediction_type": "epsilon",
    "timestep_spacing": "leading",
    "steps_offset": 0,
}
_THRESHOLD = {
    "thresholding": False,
    "dynamic_thresholding_ratio": 0.995,
    "sample_max_value": 1.0,
}
_CLIP = {"clip_sample": True, "clip_sample_range": 1.0, **_THRESHOLD}
_SIGMAS = {
    "timestep_spacing": "linspace",
    "use_karras_sigmas": False,
    "use_exponential_sigmas": False,
    "use_beta_sigmas": False,
    "final_sigmas_type": "zero",
    "rescale_betas_zero_snr": False,
}
# What each class reads, with its default.
OPTIONS: dict[str, dict[str, Any]] = {
    "DDIMScheduler": {
        **_PROCESS,
        **_CLIP,
        "set_alpha_to_one": True,
        "rescale_betas_zero_snr": False,
    },
    "DDPMScheduler": {
        **_PROCESS,
        **_CLIP,
        "variance_type": "fixed_small",
        "rescale_betas_zero_snr": False,
    },
    "DPMSolverMultistepScheduler": {
        **_PROCESS,
        **_THRESHOLD,
        **_SIGMAS,
        "solver_order": 2,
        "algorithm_type": "dpmsolver++",
        "solver_type": "midpoint",
        "lower_order_final": True,
        "euler_at_final": False,
        "lambda_min_clipped": None,
        "variance_type": None,
        "use_lu_lambdas": False,
        "use_flow_sigmas": False,
        "flow_shift": 1.0,
        "use_dynamic_shifting": False,
        "time_shift_type": "exponential",
    },
    "EulerDiscreteScheduler": {
        **_PROCESS,
        **_SIGMAS,
        "interpolation_type": "linear",
        "sigma_min": None,
        "sigma_max": None,
        "timestep_type": "discrete",
    },
    "EulerAncestralDiscreteScheduler": {
        **_PROCESS,
        "timestep_spacing": "linspace",
        "rescale_betas_zero_snr": False,
    },
    "PNDMScheduler": {**_PROCESS, "set_alpha_to_one": False, "skip_prk_steps": False},
}
# Options that are understood at these values only: anything else is refused, never ignored.
_ONLY: dict[str, tuple[Any, ...]] = {
    "use_exponential_sigmas": (False,),
    "use_beta_sigmas": (False,),
    "use_lu_lambdas": (False,),
    "use_flow_sigmas": (False,),
    "use_dynamic_shifting": (False,),
    "interpolation_type": ("linear",),
    "sigma_min": (None,),
    "sigma_max": (None,),
    "timestep_type": ("discrete",),
    "skip_prk_steps": (True,),
    "algorithm_type": ("dpmsolver++", "sde-dpmsolver++"),
    "solver_type": ("midpoint", "heun"),
    "final_sigmas_type": ("zero", "sigma_min"),
    "beta_schedule": tuple(KINDS),
    "prediction_type": tuple(PREDICTIONS),
}
# Our samplers' names in diffusers' terms: what is told apart from a folder's own options.
NAMED: dict[str, dict[str, Any]] = {
    "ddim": {"_class_name": "DDIMScheduler"},
    "ddpm": {"_class_name": "DDPMScheduler"},
    "dpm++": {"_class_name": "DPMSolverMultistepScheduler", "use_karras_sigmas": False},
    "dpm++karras": {"_class_name": "DPMSolverMultistepScheduler", "use_karras_sigmas": True},
    "euler": {"_class_name": "EulerDiscreteScheduler"},
    "euler_ancestral": {"_class_name": "EulerAncestralDiscreteScheduler"},
    "pndm": {"_class_name": "PNDMScheduler", "skip_prk_steps": True},
}
_VARIANCES = {"fixed_small": "small", "fixed_small_log": "small", "fixed_large": "large"}


class SchedulerConfig(NamedTuple):
    """What a scheduler_config.json says."""

    schedule: NoiseSchedule
    sampler: Sampler
    prediction: Prediction


def read_scheduler_config(
    config: Mapping[str, Any], *, where: str = "scheduler_config.json"
) -> SchedulerConfig:
    """The schedule, the sampler and the prediction that a scheduler's configuration means.

    Args:
        config: as diffusers writes it; `_class_name` names the class, DDIM if it is missing.
        where: named in errors.

    Raises:
        ConfigError: an unknown class, an unknown option, or a value that is not understood.
    """
    name = config.get("_class_name", "DDIMScheduler")
    if name not in OPTIONS:
        raise ConfigError(
            f"{where}: _class_name {name!r} is not read; expected one of {', '.join(OPTIONS)}"
        )
    # A folder is often opened with another scheduler than it was written for: what any of them
    # reads is known, though it means nothing to this one.
    known = {option for options in OPTIONS.values() for option in options}
    given = {key: value for key, value in config.items() if not key.startswith("_")}
    unknown = sorted(set(given) - known)
    if unknown:
        raise ConfigError(f"{where}: {name} has no option {', '.join(unknown)}")
    at = {**OPTIONS[name], **{key: given[key] for key in given if key in OPTIONS[name]}}
    for key, values in _ONLY.items():
        if key in at and at[key] not in values:
            raise ConfigError(
                f"{where}: {key} = {at[key]!r} is not read; expected "
                + " or ".join(repr(value) for value in values)
            )
    betas = at["trained_betas"]
    try:
        schedule = NoiseSchedule(
            steps=len(betas) if betas else at["num_train_timesteps"],
            kind=KINDS[at["beta_schedule"]],
            beta_start=at["beta_start"],
            beta_end=at["beta_end"],
            zero_snr=at.get("rescale_betas_zero_snr", False),
            betas_given=tuple(betas) if betas else None,
        )
        sampler = _sampler(name, at, where)
    except ValidationError as error:
        found = "; ".join(
            f"{'.'.join(map(str, e['loc']))} = {e['input']!r}: {e['msg']}" for e in error.errors()
        )
        raise ConfigError(f"{where}: {name} has a value that does not fit: {found}") from None
    return SchedulerConfig(schedule, sampler, PREDICTIONS[at["prediction_type"]])


def _sampler(name: str, at: Mapping[str, Any], where: str) -> Sampler:
    spaced: dict[str, Any] = {
        "spacing": at["timestep_spacing"],
        # `steps_offset` counts where times are "leading" alone
        "offset": at["steps_offset"] if at["timestep_spacing"] == "leading" else 0,
    }
    dynamic: dict[str, Any] = {}
    if at.get("thresholding"):
        dynamic = {
            "dynamic": at["dynamic_thresholding_ratio"],
            "dynamic_most": at["sample_max_value"],
        }
    clip = at["clip_sample_range"] if at.get("clip_sample") else None
    if name == "DDIMScheduler":
        return DDIM(clip=clip, ends_at_one=at["set_alpha_to_one"], **dynamic, **spaced)
    if name == "DDPMScheduler":
        if at["variance_type"] not in _VARIANCES:
            raise ConfigError(
                f"{where}: variance_type = {at['variance_type']!r} is not read; expected one of "
                + ", ".join(_VARIANCES)
            )
        return DDPM(clip=clip, variance=_VARIANCES[at["variance_type"]], **dynamic, **spaced)
    if name == "PNDMScheduler":
        return PNDM(ends_at_one=at["set_alpha_to_one"], **spaced)
    if name == "EulerAncestralDiscreteScheduler":
        return Euler(ancestral=True, **spaced)
    final: Any = "zero" if at["final_sigmas_type"] == "zero" else "smallest"
    if name == "EulerDiscreteScheduler":
        return Euler(karras=at["use_karras_sigmas"], final=final, **spaced)
    if at["variance_type"] not in (None, "fixed_small", "fixed_large"):
        raise ConfigError(f"{where}: variance_type = {at['variance_type']!r} is not read")
    least = at["lambda_min_clipped"]
    return DPMSolver(
        order=at["solver_order"],
        solver=at["solver_type"],
        karras=at["use_karras_sigmas"],
        stochastic=at["algorithm_type"] == "sde-dpmsolver++",
        final=final,
        lower_order_at_end=at["lower_order_final"],
        first_order_at_end=at["euler_at_final"],
        log_snr_least=None if least in (None, float("-inf"), "-Infinity") else least,
        **dynamic,
        **spaced,
    )
