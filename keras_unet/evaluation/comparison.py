"""What a comparison of two evaluations holds."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

_FROZEN = ConfigDict(extra="forbid", frozen=True)


class Difference(BaseModel):
    """One score of both: `difference` is B − A, `interval` its paired bootstrap interval.

    wins, losses: images on which B is better, or worse; ties: equal, or undefined in either. For
    a score that is neither better high nor low, all three are 0.
    """

    model_config = _FROZEN

    score: tuple[str, ...]
    a: float | None
    b: float | None
    difference: float | None
    interval: tuple[float, float] | None
    wins: int
    losses: int
    ties: int


class Comparison(BaseModel):
    """Two evaluations on the images that both have. left_out: images that only one has."""

    model_config = _FROZEN

    format: int = 1
    a: str
    b: str
    model_a: str
    model_b: str
    classes: tuple[str, ...]
    images: tuple[str, ...]
    left_out: tuple[str, ...]
    differences: tuple[Difference, ...]
    images_a: dict[str, dict[str, Any]]
    images_b: dict[str, dict[str, Any]]
    notes: tuple[str, ...]
