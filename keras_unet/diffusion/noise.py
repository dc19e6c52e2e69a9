"""Noise of a trajectory: a function of (seed, image, step), whatever the batch or the machine.

Image k of a seed so has the same noise when it is drawn alone and among a hundred, but for the
last bit, which the machine's logarithm and cosine decide.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from keras import ops

from keras_unet.threefry import threefry

Tensor = Any

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
