"""The learning rate as a pure function of how much of the run is over."""

from __future__ import annotations

import math
from typing import Literal

Schedule = Literal["polynomial", "cosine", "constant"]

WARM_UP = 0.02  # share of the run, where no number of steps is given


def learning_rate(
    peak: float,
    *,
    used: float,
    step: int,
    schedule: Schedule = "polynomial",
    warmup_steps: int | None = None,
) -> float:
    """The rate for the coming step.

    "polynomial": peak · (1 - t)^0.9 ("poly", Chen et al. 2017, DeepLab, section 4.1; nnU-Net);
    "cosine": peak · (1 + cos(π t)) / 2 (Loshchilov, Hutter 2017, equation 5, one cycle);
    "constant": peak. Before, the rate rises linearly from nearly 0 over the warm-up.

    Args:
        peak: the greatest rate.
        used: t, the share of the run that is over, by steps or by time, 0 … 1.
        step: steps done.
        schedule: which.
        warmup_steps: length of the warm-up; None: the first 2 % of the run, by `used`.
    """
    if schedule == "polynomial":
        falling = (1.0 - used) ** 0.9
    elif schedule == "cosine":
        falling = (1.0 + math.cos(math.pi * used)) / 2.0
    else:
        falling = 1.0
    rising = (used + 1e-3) / WARM_UP
    if warmup_steps is not None:
        rising = (step + 1) / (warmup_steps + 1)
    return peak * min(rising, 1.0) * falling
