"""Sections of a run's settings: frozen, validated objects that reject unknown keys."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    model_validator,
)

from keras_unet import geometry
from keras_unet.data.label_rule import Kind, LabelRule
from keras_unet.data.normalization import Method, Normalization
from keras_unet.remote_path import local_path

AnyPath = Annotated[
    Path,
    BeforeValidator(lambda v: str(v) if isinstance(v, (int, float)) else v),
    AfterValidator(local_path),
]
AnyText = Annotated[str, Field(coerce_numbers_to_str=True)]
AnyNormalization = Annotated[
    Annotated[Method, Tag("method")] | Annotated[Normalization, Tag("fitted")],
    Discriminator(lambda value: "method" if isinstance(value, str) else "fitted"),
]
Weight = Annotated[float, Field(ge=0.0)]


class Section(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False
    )


class DataConfig(Section):
    """Where images and labels are and what the labels' numbers mean."""

    images: AnyPath = Field(
        description="folder with images/ and labels/, folder, TIFF stack, or TFRecords"
    )
    labels: AnyPath | None = Field(
        None, description="folder or TIFF stack, if not beside the images"
    )
    validation: Annotated[Path, AfterValidator(local_path)] | float = Field(
        0.2, description="folder laid out like `images`, or the share of images held out"
    )
    held_out: tuple[AnyText, ...] | None = Field(
        None, description="names of the images held out, instead of a share"
    )
    groups: str | None = Field(
        None, description="pattern: images whose names match in equal text are held out together"
    )
    validation_labels: AnyPath | None = Field(None, description="if not beside data.validation")
    label_kind: Kind = Field("semantic", description="are the numbers classes, or objects")
    label_values: tuple[int, ...] | None = Field(None, description="stored value of each class")
    label_ignore: int | None = Field(None, description="stored value of pixels that don't count")
    num_classes: int | None = Field(None, description="classes 0 … num_classes - 1")
    class_names: tuple[AnyText, ...] | None = Field(
        None, description="for tables; background first"
    )
    normalization: AnyNormalization = Field(
        "image",
        description='z-score by "image" or by "dataset", or "range": 0 … 255 to 0 … 1; '
        "or one that was fitted before",
    )

    @property
    def rule(self) -> LabelRule:
        """What the labels' numbers mean."""
        return LabelRule(
            kind=self.label_kind,
            values=self.label_values,
            num_classes=self.num_classes,
            ignore=self.label_ignore,
        )

    @model_validator(mode="after")
    def _rule_fits(self) -> DataConfig:
        _ = self.rule
        if self.validation_labels is not None and not isinstance(self.validation, Path):
            raise ValueError("validation_labels needs validation: the images they belong to")
        if isinstance(self.validation, Path) and (self.held_out or self.groups):
            raise ValueError(
                "held_out and groups are for images that are held out; validation is "
                "a folder of its own"
            )
        try:
            re.compile(self.groups or "")
        except re.error as error:
            raise ValueError(f"groups is no regular expression: {error}") from error
        return self


class ModelConfig(Section):
    """Arguments of `build_unet`; 16 filters and batch normalization suit a CPU."""

    filters: int = Field(16, ge=1, description="channels of the first level; the paper has 64")
    depth: int = Field(4, ge=1, le=8, description="number of poolings")
    padding: geometry.Padding = Field("valid", description='"valid", the paper, or "same"')
    upsampling: Literal["transpose", "bilinear", "nearest"] = Field(
        "transpose", description="up-convolution, or resizing and a convolution"
    )
    normalization: Literal["none", "batch", "group", "layer"] = Field(
        "batch", description="between convolution and ReLU; the paper has none"
    )
    dropout: float = Field(
        0.0, ge=0.0, lt=1.0, description="rate at the end of the contracting path"
    )
    deep_supervision: bool = Field(
        False, description="in training, each level of the expansive path answers too"
    )

    @property
    def network(self) -> dict[str, Any]:
        """The arguments of `build_unet`; the others are of the training alone."""
        options = self.model_dump(exclude={"deep_supervision"})
        return {**options, "normalization": _none(options["normalization"])}


class LossConfig(Section):
    """Weighted cross-entropy (paper, equations 1 and 2) and what may be added to it."""

    w0: float = Field(
        10.0,
        ge=0.0,
        description="height of the border weight; 0 = no border weight",
    )
    sigma: float = Field(5.0, gt=0.0, description="width of the border weight in pixels")
    class_weights: Literal["balanced", "none"] | tuple[Weight, ...] = Field(
        "balanced", description="weight of each class, or how to choose it"
    )
    separation: int = Field(2, ge=0, description="background line between touching cells, pixels")
    label_smoothing: float = Field(
        0.0, ge=0.0, lt=1.0, description="share of the truth spread over all classes"
    )
    dice: float = Field(0.0, ge=0.0, description="weight of an added soft Dice loss")
    focal: float = Field(0.0, ge=0.0, description="weight of an added focal loss")


def _none(value: str) -> str | None:
    return None if value == "none" else value
