"""Noise of a diffusion process: how much of it there is at each time, and its draws.

With a_t, the product of (1 - beta) up to t (`alphas_cumprod`), the noised image is
x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) noise (Ho, Jain, Abbeel 2020, 2006.11239, equation 4).

The draws are a function of (seed, image, step), whatever the batch or the machine: image k of a
seed has the same noise when it is drawn alone and among a hundred, but for the last bit, which the
machine's logarithm and cosine decide.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from keras import ops
from pydantic import Field, model_validator

from keras_unet.settings import Frozen
from keras_unet.threefry import threefry

Prediction = Literal["epsilon", "sample", "v"]
Tensor = Any

MOST_BETA = 0.999  # of the cosine schedule, as in its paper


class NoiseSchedule(Frozen):
    """The variances of the forward process, computed in float64.

    Example:
        >>> from keras_unet.diffusion import NoiseSchedule
        >>> schedule = NoiseSchedule(kind="scaled_linear", beta_start=0.00085, beta_end=0.012)
        >>> round(float(schedule.alphas_cumprod[-1]), 6)
        0.00466

    Attributes:
        steps: how many times the process has, T.
        kind: "linear" in beta (2006.11239), "scaled_linear", linear in sqrt(beta) (latent
            diffusion, 2112.10752), or "cosine" (Nichol, Dhariwal 2021, 2102.09672, equation 17).
        beta_start: beta of the first time; not read by "cosine".
        beta_end: beta of the last time; not read by "cosine".
        zero_snr: whether the table is rescaled so that nothing of the image is left at the last
            time (Lin et al. 2023, 2305.08891, algorithm 1): for "v" and "sample" only, since the
            image cannot be told from pure noise.
        betas_given: the betas themselves, instead of a kind; None computes them.
    """

    steps: int = Field(1000, ge=1, le=100_000)
    kind: Literal["linear", "scaled_linear", "cosine"] = "linear"
    beta_start: float = Field(1e-4, gt=0, lt=1)
    beta_end: float = Field(0.02, gt=0, lt=1)
    zero_snr: bool = False
    betas_given: tuple[float, ...] | None = None

    @model_validator(mode="after")
    def _check(self) -> NoiseSchedule:
        if self.betas_given is not None:
            if len(self.betas_given) != self.steps:
                raise ValueError(
                    f"betas_given has {len(self.betas_given)} values; expected {self.steps}, "
                    "one for each of the steps"
                )
            if not all(0 < beta < 1 for beta in self.betas_given):
                raise ValueError("betas_given holds values outside of 0 to 1 (exclusive)")
        return self

    @property
    def betas(self) -> np.ndarray:
        """float64 [T], read-only."""
        return _tables(self)[0]

    @property
    def alphas_cumprod(self) -> np.ndarray:
        """a_t: float64 [T], from nearly 1 to nearly (with zero_snr exactly) 0; read-only."""
        return _tables(self)[1]

    def _rates(self, times: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """sqrt(a_t) and sqrt(1 - a_t) of each image of a batch, to be multiplied with it."""
        left = self.alphas_cumprod
        shape = (-1, *(1,) * (len(like.shape) - 1))

        def rate(table: np.ndarray) -> Tensor:
            table = ops.convert_to_tensor(np.sqrt(table), dtype=like.dtype)
            return ops.reshape(ops.take(table, times, axis=0), shape)

        return rate(left), rate(1 - left)

    def add_noise(self, image: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        """x_t of each image.

        Args:
            image: x_0, float [B, …].
            noise: standard normal, of the same shape.
            times: int [B], 0 to steps - 1.

        Returns:
            float [B, …].
        """
        image, noise = ops.convert_to_tensor(image), ops.convert_to_tensor(noise)
        signal, sigma = self._rates(times, image)
        return signal * image + sigma * noise

    def target(self, image: Tensor, noise: Tensor, times: Tensor, prediction: Prediction) -> Tensor:
        """What the network is asked for: the noise ("epsilon"), the image ("sample"), or
        v = sqrt(a_t) noise - sqrt(1 - a_t) image (Salimans, Ho 2022, 2202.00512, appendix D).

        Arguments and result as in `add_noise`.
        """
        if prediction == "epsilon":
            return noise
        if prediction == "sample":
            return image
        image, noise = ops.convert_to_tensor(image), ops.convert_to_tensor(noise)
        signal, sigma = self._rates(times, image)
        return signal * noise - sigma * image

    def loss_weights(self, prediction: Prediction, gamma: float | None) -> np.ndarray:
        """Min-SNR weights of each time's squared error (Hang et al. 2023, 2303.09556).

        Args:
            prediction: what the squared error is taken of.
            gamma: the signal-to-noise ratio that the weight is cut at; None weighs all alike.

        Returns:
            float64 [T].
        """
        if gamma is None:
            return np.ones(self.steps)
        left = self.alphas_cumprod
        snr = left / (1 - left)
        if prediction == "sample":
            return np.minimum(snr, gamma)
        if prediction == "epsilon":
            with np.errstate(divide="ignore"):  # without any signal, 1
                return np.minimum(gamma / snr, 1.0)
        return np.minimum(snr, gamma) / (snr + 1)


@lru_cache(maxsize=64)
def _tables(schedule: NoiseSchedule) -> tuple[np.ndarray, np.ndarray]:
    """betas and alphas_cumprod; not kept in the object, where `model_copy` would copy them too."""
    steps, ends = schedule.steps, (schedule.beta_start, schedule.beta_end)
    if schedule.betas_given is not None:
        betas = np.asarray(schedule.betas_given, np.float64)
    elif schedule.kind == "linear":
        betas = np.linspace(*ends, steps)
    elif schedule.kind == "scaled_linear":
        betas = np.linspace(ends[0] ** 0.5, ends[1] ** 0.5, steps) ** 2
    else:
        times = np.arange(steps + 1) / steps
        left = np.cos((times + 0.008) / 1.008 * np.pi / 2) ** 2
        betas = np.minimum(1 - left[1:] / left[:-1], MOST_BETA)
    if schedule.zero_snr:
        betas = _without_signal_at_the_end(betas)
    tables = betas, np.cumprod(1 - betas)
    for table in tables:
        table.setflags(write=False)
    return tables


def _without_signal_at_the_end(betas: np.ndarray) -> np.ndarray:
    """Shifts sqrt(a_t) so that the last is 0, and scales it so that the first stays."""
    root = np.sqrt(np.cumprod(1 - betas))
    root = (root - root[-1]) * (root[0] / (root[0] - root[-1]))
    left = root**2
    return 1 - np.concatenate([left[:1], left[1:] / left[:-1]])


START = 0xFFFFFFFF  # in place of a step: the noise that a trajectory begins with


def seed_words(seed: int) -> np.ndarray:
    """uint32 [2], the low and the high half of a seed of up to 64 bits."""
    seed &= 2**64 - 1
    return np.array([seed & 0xFFFFFFFF, seed >> 32], np.uint32)


def normal(seed: Tensor, step: Any, shape: tuple[Any, ...], dtype: str = "float32") -> Tensor:
    """Standard normal noise of one step for a batch of images.

    Args:
        seed: uint32 [2], from `seed_words`.
        step: which step, an integer or a scalar integer tensor; `START` before the first.
        shape: [B, …]; entries may be tensors.
        dtype: of the result. The draws have the 24 bits of float32.

    Returns:
        A tensor of that shape and dtype.
    """
    seed = ops.cast(seed, "uint32")
    images = ops.cast(ops.arange(shape[0], dtype="int32"), "uint32")[:, None]
    key = threefry((seed[0], seed[1]), (images, ops.zeros_like(images)), ops)
    size = math.prod(shape[1:]) if all(isinstance(n, int) for n in shape[1:]) else None
    if size is None:
        size = ops.prod(ops.stack([ops.cast(n, "int32") for n in shape[1:]]))
    index = ops.cast(ops.arange((size + 1) // 2, dtype="int32"), "uint32")[None, :]
    step = ops.cast(step, "uint32") if not isinstance(step, int) else np.uint32(step)
    first, second = threefry(key, (index, ops.zeros_like(index) + step), ops)
    radius = ops.sqrt(-2.0 * ops.log(_uniform(first) + 2.0**-25))  # Box, Muller 1958
    angle = (2.0 * math.pi) * _uniform(second)
    both = ops.concatenate([radius * ops.cos(angle), radius * ops.sin(angle)], axis=1)
    return ops.cast(ops.reshape(both[:, :size], shape), dtype)


def split(seed: Tensor, number: Any) -> Tensor:
    """uint32 [2]: a seed of its own for each `number`, a uint32 scalar."""
    seed = ops.cast(seed, "uint32")
    return ops.stack(threefry((seed[0], seed[1]), (number, ops.zeros_like(number)), ops))


def uniform(seed: Tensor, step: Any, count: Any) -> Tensor:
    """float32 [count] in [0, 1), one for each image; arguments as in `normal`."""
    seed = ops.cast(seed, "uint32")
    images = ops.cast(ops.arange(count, dtype="int32"), "uint32")
    stream = ops.zeros_like(images) + np.uint32(step)
    return _uniform(threefry((seed[0], seed[1]), (images, stream), ops)[0])


def _uniform(bits: Tensor) -> Tensor:
    """float32 in [0, 1), a multiple of 2^-24."""
    high = ops.cast(ops.right_shift(bits, np.uint32(8)), "int32")
    return ops.cast(high, "float32") * 2.0**-24
