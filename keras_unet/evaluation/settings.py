"""What is scored, and how its intervals are drawn."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class ScoreSettings(BaseModel):
    """Choices of an evaluation; stored with it, since scores of other choices do not compare."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tolerance: float = Field(
        2.0, ge=0, allow_inf_nan=False, description="px: how far an outline may be off (boundary)"
    )
    objects: bool | None = Field(
        None, description="score objects; None: where the labels are instances"
    )
    object_class: str | None = Field(
        None, description="the class whose components are objects; None: all but the background"
    )
    min_size: int = Field(0, ge=0, description="pixels: smaller predicted objects are dropped")
    split: Literal["distance"] | None = Field(
        None, description="how touching predicted objects are cut apart; None: not at all"
    )
    seed_distance: int = Field(5, ge=1, description="px, for split: see `to_instances`")
    isbi: bool = Field(False, description="the ISBI 2012 challenge's metrics; class 1 is inside")
    confidence: float = Field(0.95, gt=0, lt=1, description="of the bootstrap intervals")
    resamples: int = Field(2000, ge=0, description="draws of images; 0: no intervals")
    seed: int = Field(0, ge=0, description="of these draws")
