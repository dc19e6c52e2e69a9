"""What a training run does: one frozen, validated object that rejects unknown keys.

It is read from TOML, from `--set section.key=value`, or built in Python; the run folder keeps it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from keras_unet import geometry
from keras_unet.data.label_rule import Kind, LabelRule
from keras_unet.data.normalization import Method
from keras_unet.errors import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


_Path = Annotated[Path, BeforeValidator(lambda v: str(v) if isinstance(v, (int, float)) else v)]
_Text = Annotated[str, Field(coerce_numbers_to_str=True)]
_Weight = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


class DataConfig(_Section):
    """Where images and labels are and what the labels' numbers mean."""

    images: _Path = Field(description="folder with images/ and labels/, or a folder or TIFF stack")
    labels: _Path | None = Field(None, description="folder or TIFF stack, if not beside the images")
    validation: Path | float = Field(
        0.2, description="folder laid out like `images`, or the share of images held out"
    )
    validation_labels: _Path | None = Field(None, description="if not beside data.validation")
    label_kind: Kind = Field("semantic", description="are the numbers classes, or objects")
    label_values: tuple[int, ...] | None = Field(None, description="stored value of each class")
    label_ignore: int | None = Field(None, description="stored value of pixels that don't count")
    num_classes: int | None = Field(None, description="classes 0 … num_classes - 1")
    class_names: tuple[_Text, ...] | None = Field(None, description="for tables; background first")
    normalization: Method = Field(
        "image", description='z-score by "image" or by "dataset", or "range": 0 … 255 to 0 … 1'
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
        return self


class ModelConfig(_Section):
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


class LossConfig(_Section):
    """Weighted cross-entropy (paper, equations 1 and 2) and what may be added to it."""

    w0: float = Field(
        10.0,
        ge=0.0,
        allow_inf_nan=False,
        description="height of the border weight; 0 = no border weight",
    )
    sigma: float = Field(
        5.0, gt=0.0, allow_inf_nan=False, description="width of the border weight in pixels"
    )
    class_weights: Literal["balanced", "none"] | tuple[_Weight, ...] = Field(
        "balanced", description="weight of each class, or how to choose it"
    )
    separation: int = Field(2, ge=0, description="background line between touching cells, pixels")
    label_smoothing: float = Field(
        0.0, ge=0.0, lt=1.0, description="share of the truth spread over all classes"
    )
    dice: float = Field(0.0, ge=0.0, description="weight of an added soft Dice loss")
    focal: float = Field(0.0, ge=0.0, description="weight of an added focal loss")


class TrainConfig(_Section):
    """A whole run: `steps` bounds its optimiser steps, `minutes` its time; either ends it.

    With `steps` alone, a run does not depend on how fast the machine is.
    """

    data: DataConfig
    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    augment: str = Field("paper", description="preset of keras_unet.augment")
    augment_options: dict[str, Any] = Field(
        {}, description="changes to the preset, e.g. augment_options.elastic_sigma=5"
    )
    augment_on: Literal["auto", "cpu", "accelerator"] = Field(
        "auto", description="in the data pipeline or in the training step; auto: step if GPU"
    )
    output: _Path = Field(Path("runs"), description="folder of the run folders")
    name: _Text | None = Field(
        None, pattern=r"^[^/\\]+$", description="of the run folder; None: data folder and time"
    )
    tile: int | None = Field(None, ge=1, description="input tile in pixels; None: chosen from data")
    batch_size: int = Field(2, ge=1, description="tiles a step")
    minutes: float | None = Field(
        None, gt=0.0, description="training time; 20 if neither it nor steps is set"
    )
    steps: int | None = Field(None, ge=1, description="optimiser steps in all")
    steps_per_epoch: int = Field(50, ge=1, description="steps between two validations")
    optimizer: Literal["adam", "sgd"] = Field(
        "adam", description='AdamW, or "sgd" with momentum 0.99 as in the paper'
    )
    learning_rate: float = Field(1e-3, gt=0.0, description="at its peak; falls to 0")
    weight_decay: float = Field(1e-4, ge=0.0, description="of AdamW")
    patience: int | None = Field(None, ge=1, description="epochs without a better score")
    monitor: Literal["mean_dice", "mean_iou", "pixel_accuracy"] = Field(
        "mean_dice", description="validation score that makes a model the best"
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="of the layers; auto: bfloat16 where the processor has it"
    )
    seed: int = Field(0, ge=0, description="of weights, tiles, augmentation and the split")

    @model_validator(mode="after")
    def _legal_tile(self) -> TrainConfig:
        if self.tile is not None:
            geometry.output_size(self.tile, self.model.depth, self.model.padding)
        return self

    @property
    def time_limit(self) -> float | None:
        """Minutes, or None where only the steps count."""
        return 20.0 if self.minutes is None and self.steps is None else self.minutes


def load_config(
    path: str | Path | None = None,
    settings: Iterable[str] = (),
    *,
    data: Mapping[str, Any] | None = None,
) -> TrainConfig:
    """Builds a configuration from a TOML file, then `data`, then `section.key=value` settings.

    Raises:
        ConfigError: the file cannot be read, a key is unknown, or a value does not fit; names
            every bad key, what was found and what was expected.
    """
    tree: dict[str, Any] = {}
    if path is not None:
        try:
            tree = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise ConfigError(f"{path}: cannot be read as TOML: {error}") from error
    if not isinstance(tree.setdefault("data", {}), dict):
        raise ConfigError(f"{path}: data: expected a section [data], got {tree['data']!r}")
    tree["data"].update({k: v for k, v in (data or {}).items() if v is not None})
    for setting in settings:
        key, found, text = setting.partition("=")
        if not found or not key:
            raise ConfigError(f"--set {setting!r}: expected key=value, such as --set minutes=20")
        _put(tree, key.strip().split("."), _value(text.strip()), setting)
    return make_config(tree, str(path or "configuration"))


def make_config(tree: Mapping[str, Any], source: str = "configuration") -> TrainConfig:
    """Validates a tree of settings; `source` names it in the message.

    Raises:
        ConfigError: names every bad key, what was found and what was expected.
    """
    try:
        return TrainConfig.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(_explain(error, source)) from error


def to_tree(config: TrainConfig) -> dict[str, Any]:
    """The configuration as plain values that TOML and JSON can hold; None is left out."""
    return config.model_dump(mode="json", exclude_none=True)


def _put(tree: dict[str, Any], keys: list[str], value: Any, setting: str) -> None:
    for key in keys[:-1]:
        tree = tree.setdefault(key, {})
        if not isinstance(tree, dict):
            raise ConfigError(f"--set {setting!r}: {key!r} is a value, not a section")
    tree[keys[-1]] = value


def _value(text: str) -> Any:
    """A TOML value where the text is one, else the text itself: no quotes are needed in a shell."""
    try:
        value = tomllib.loads(f"x = {text}")["x"]
    except tomllib.TOMLDecodeError:
        return text
    return value if isinstance(value, (bool, int, float, str, list, dict)) else text  # dates


def _explain(error: ValidationError, source: str) -> str:
    lines = [f"{source}: {error.error_count()} bad setting(s)"]
    for problem in error.errors():
        key = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            lines.append(f"  {key}: unknown key; see `keras-unet train --show-settings`")
        elif problem["type"] == "missing":
            lines.append(f"  {key}: must be given")
        else:
            lines.append(f"  {key or 'run'}: {problem['msg']}, got {problem['input']!r:.80}")
    return "\n".join(lines)


def describe() -> str:
    """Every setting with its default and meaning, one a line, for `--show-settings`."""
    lines: list[str] = []

    def walk(section: type[BaseModel], prefix: str) -> None:
        for name, field in section.model_fields.items():
            kind = field.annotation
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                walk(kind, f"{prefix}{name}.")
                continue
            default = "(must be given)" if field.is_required() else str(field.default)
            lines.append(f"{prefix + name:28}{default:16}{field.description or ''}".rstrip())

    walk(TrainConfig, "")
    return "\n".join(lines)
