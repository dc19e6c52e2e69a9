"""Text to image: the parts of a Stable Diffusion 1 or 2 folder at work together.

`scheduler_config.json` of such a folder gives the noise schedule, the sampler and what the network
predicts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import keras
import numpy as np
from keras import ops
from pydantic import ValidationError

from keras_unet.diffusion import noise as noises
from keras_unet.diffusion.model import Trajectory, check_seed
from keras_unet.diffusion.noise import NoiseSchedule, Prediction
from keras_unet.diffusion.samplers import DDIM, DDPM, PNDM, DPMSolver, Euler, Sampler, make_sampler
from keras_unet.errors import ConfigError
from keras_unet.settings import problems

# What diffusers' StableDiffusionPipeline sets whatever the scheduler's file says.
_ALWAYS = {"steps_offset": 1, "clip_sample": False}
_INPUTS = {"sample", "timestep", "context"}
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


class TextToImage:
    """Text in, pictures out (Rombach et al. 2022, 2112.10752).

    Args:
        unet: of `build_diffusion_unet`, with the input `context`.
        autoencoder: of `build_autoencoder`.
        text_encoder: token ids [B, T] -> {"last_hidden_state": [B, T, D], …}; None: `generate`
            takes embeddings only.
        tokenizer: texts -> int32 [B, T]; None: likewise.
        scheduler_config: what the folder's scheduler_config.json holds. As in diffusers'
            StableDiffusionPipeline, `steps_offset` is 1 and latents are never clipped.

    Attributes:
        schedule, sampler, prediction: what the scheduler's configuration says; the sampler may
            be changed.

    Raises:
        ConfigError: parts that do not fit each other, or an unknown scheduler.
    """

    def __init__(
        self,
        unet: keras.Model,
        autoencoder: Any,
        text_encoder: Any = None,
        tokenizer: Any = None,
        scheduler_config: Mapping[str, Any] | None = None,
    ) -> None:
        if "context" not in unet.input:
            raise ConfigError("text to image needs a U-Net with cross-attention; found none")
        if set(unet.input) != _INPUTS:
            further = ", ".join(sorted(set(unet.input) - _INPUTS))
            raise ConfigError(
                f"text to image has nothing for the U-Net's further inputs: {further}"
            )
        takes, returns = int(unet.input["sample"].shape[-1]), int(unet.outputs[0].shape[-1])
        if takes != returns:
            raise ConfigError(
                f"the U-Net takes {takes} channels and returns {returns}; expected the same number"
            )
        self.unet = unet
        self.autoencoder = autoencoder
        self.text_encoder = text_encoder
        self.tokenizer = tokenizer
        self.scheduler_config = dict(scheduler_config or {})
        self.schedule, sampler, self.prediction = read_scheduler_config(
            {**self.scheduler_config, **_ALWAYS}
        )
        self.sampler: Sampler = sampler
        self._trajectory = Trajectory(unet)

    def generate(
        self,
        prompt: str | Sequence[str] | None = None,
        negative: str | Sequence[str] | None = "",
        *,
        steps: int = 50,
        guidance: float = 7.5,
        guidance_rescale: float = 0.0,
        seed: int | None = None,
        size: tuple[int, int] | None = None,
        latents: Any = None,
        prompt_embeds: Any = None,
        negative_prompt_embeds: Any = None,
        output: Literal["image", "latents"] = "image",
        sampler: str | Sampler | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> np.ndarray:
        """Pictures of what the prompt says.

        Args:
            prompt: a text, or one for each picture.
            negative: what guidance leads away from: one text, or one for each picture; None is "".
            steps: of the sampler.
            guidance: 1 or less takes the prompt alone; more exaggerates what it changes.
            guidance_rescale: see `keras_unet.diffusion.guide`.
            seed: of the noise; the same gives the same pictures. None draws one.
            size: (height, width) of the pictures in pixels.
            latents: standard normal noise [B, h, w, C] to begin with, instead of a seed's.
            prompt_embeds: [B, T, D], instead of a prompt.
            negative_prompt_embeds: [B, T, D], instead of `negative`.
            output: "image", or the "latents" before the autoencoder.
            sampler: another than the folder's; by its name, with the folder's options.
            progress: called with (steps done, steps in all).

        Returns:
            uint8 [B, H, W, 3], or the latents [B, h, w, C].

        Raises:
            ConfigError: arguments are missing or do not fit each other.
        """
        if prompt is not None and prompt_embeds is None:
            positive = self._embed(prompt)
        elif prompt is None and prompt_embeds is not None:
            positive = self._as_float(prompt_embeds)
        else:
            raise ConfigError("expected either a prompt or prompt_embeds")
        if output not in ("image", "latents"):
            raise ConfigError(f"output {output!r}: expected 'image' or 'latents'")
        count = int(positive.shape[0])
        against = None
        if guidance > 1:
            if negative_prompt_embeds is None:
                against = self._embed(negative or "")
            else:
                against = self._as_float(negative_prompt_embeds)
            if against.shape[0] == 1 and count > 1:
                against = ops.repeat(against, count, axis=0)
            if tuple(against.shape) != tuple(positive.shape):
                raise ConfigError(
                    f"negative embeddings of shape {tuple(against.shape)}; expected "
                    f"{tuple(positive.shape)}, as the prompt's"
                )
        words = noises.seed_words(check_seed(seed))
        shape = (count, *self._latent_size(size), int(self.unet.outputs[0].shape[-1]))
        if latents is None:
            latents = noises.normal(words, noises.START, shape, self._dtype)
        else:
            latents = self._as_float(latents)
            if size is None:
                shape = (count, *latents.shape[1:3], shape[-1])
            if tuple(latents.shape) != shape:
                raise ConfigError(f"latents of shape {tuple(latents.shape)}; expected {shape}")
        plan = self._sampler(sampler).plan(self.schedule, steps, self.prediction)
        x = self._trajectory(
            plan,
            latents,
            {"context": positive},
            None if against is None else {"context": against},
            guidance=guidance,
            guidance_rescale=guidance_rescale,
            seed=int(words[0]) | int(words[1]) << 32,
            progress=progress,
        )
        if output == "latents":
            return np.asarray(ops.convert_to_numpy(x))
        x = self.autoencoder.decode(self.autoencoder.unscale(x))
        picture = np.clip(ops.convert_to_numpy(ops.cast(x, self._dtype)) / 2 + 0.5, 0, 1)
        return (255 * picture).round().astype(np.uint8)

    @property
    def _dtype(self) -> str:
        """Of the trajectory: float64 for a float64 network, else float32."""
        return self.unet.outputs[0].dtype

    def _sampler(self, sampler: str | Sampler | None) -> Sampler:
        if sampler is None:
            return self.sampler
        if sampler in NAMED:
            config = {**self.scheduler_config, **_ALWAYS, **NAMED[str(sampler)]}
            return read_scheduler_config(config).sampler
        return make_sampler(sampler)

    def _as_float(self, values: Any) -> Any:
        return ops.convert_to_tensor(values, dtype=self._dtype)

    def _embed(self, texts: str | Sequence[str]) -> Any:
        if self.text_encoder is None or self.tokenizer is None:
            raise ConfigError(
                "there is no text encoder or no tokenizer; expected prompt_embeds and, with "
                "guidance, negative_prompt_embeds"
            )
        texts = [texts] if isinstance(texts, str) else list(texts)
        if not texts:
            raise ConfigError("no prompts; expected at least one")
        return self._as_float(self.text_encoder(self.tokenizer(texts))["last_hidden_state"])

    def _latent_size(self, size: tuple[int, int] | None) -> tuple[int, int]:
        if size is None:
            meant = self.unet.options["sample_size"] or 64
            return (meant, meant) if isinstance(meant, int) else (meant[0], meant[1])
        factor = self.autoencoder.stride
        if any(n < factor or n % factor for n in size):
            raise ConfigError(f"size {size}: expected multiples of {factor}")
        return size[0] // factor, size[1] // factor


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
        found = "; ".join(problems(error, NoiseSchedule))
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
