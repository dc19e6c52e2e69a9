"""Policy of the Evaluator: thresholds on scores, over all images and over slices, that bless."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, model_validator

from keras_unet.data import LabelKind
from keras_unet.evaluation import ScoreSettings
from keras_unet.settings import Section

Number = Annotated[float, Field(allow_inf_nan=False)]


class Threshold(Section):
    """A condition on one score; several of its limits must all hold."""

    score: str = Field(
        min_length=1,
        description='by its path in evaluation.json: "mean_iou", "iou.cell", "objects.f1"',
    )
    slice: str = Field(
        "",
        description='images it is over: "" all; "group" or "density" each slice; or one, as '
        '"group=mouse7", "density=high"',
    )
    at_least: Number | None = Field(None, description="the score's least value")
    at_most: Number | None = Field(None, description="the score's largest value")
    min_gain: Number | None = Field(
        None,
        description="least improvement on the baseline (the model that is served, else the latest "
        "blessed), in the direction that is better: -0.01 lets it be 0.01 worse. Without one it "
        "holds",
    )
    min_images: int = Field(1, ge=1, description="slices of fewer images are not judged")

    @model_validator(mode="after")
    def _has_a_limit(self) -> Threshold:
        if self.at_least is None and self.at_most is None and self.min_gain is None:
            raise ValueError(f"{self.score}: expected at_least, at_most or min_gain")
        kind = self.slice.partition("=")[0]
        if kind not in ("", "group", "density") or self.slice.endswith("="):
            raise ValueError(
                f'slice is {self.slice!r}; expected "", "group", "density", "group=NAME" or '
                '"density=NAME"'
            )
        return self


class Scoring(Section):
    """How a model is scored, and which slices of the images are looked at."""

    density: int | tuple[Number, ...] = Field(
        3,
        description="slices by cells per 10,000 pixels: so many with equally many images (3: low, "
        "middle, high), or the edges between them",
    )
    scores: ScoreSettings = Field(ScoreSettings(), description="settings of keras-unet evaluate")
    prediction: dict[str, Any] = Field({}, description="options of predict, such as symmetries")

    @model_validator(mode="after")
    def _slices_fit(self) -> Scoring:
        if isinstance(self.density, int):
            if not 1 <= self.density <= 20:
                raise ValueError(f"density is {self.density}; expected 1 to 20 slices")
        elif list(self.density) != sorted(set(self.density)) or not self.density:
            raise ValueError(f"density is {self.density}; expected edges in ascending order")
        return self


class EvaluationPolicy(Scoring):
    """How a model is scored and judged. Without a threshold no model is blessed."""

    thresholds: tuple[Threshold, ...] = Field((), description="all must hold")


# The first model must be of some use, each later one about as good as the baseline. Mean Dice says
# little of objects: specks and merged cells hardly change it. The limits are judgement.
DEFAULTS: dict[LabelKind, tuple[Threshold, ...]] = {
    "semantic": (Threshold(score="mean_dice", at_least=0.5, min_gain=-0.01),),
    "instances": (Threshold(score="objects.f1", at_least=0.3, min_gain=-0.01),),
}
