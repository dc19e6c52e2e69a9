"""`TextToImage`: the parts of a Stable Diffusion 1 or 2 folder at work together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import keras
import numpy as np
from keras import ops

from keras_unet.diffusion import noise as noises
from keras_unet.diffusion.samplers import Sampler, make_sampler
from keras_unet.diffusion.sampling import Trajectory, check_seed
from keras_unet.diffusion.scheduler_config import NAMED, read_scheduler_config
from keras_unet.errors import ConfigError

# What diffusers' StableDiffusionPipeline sets whatever the scheduler's file says.
_ALWAYS = {"steps_offset": 1, "clip_sample": False}
_INPUTS = {"sample", "timestep", "context"}


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
