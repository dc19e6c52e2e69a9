"""What a training run does: one frozen, validated object that rejects unknown keys.

It is read from TOML, from `--set section.key=value`, or built in Python; the run folder keeps it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from keras_unet import geometry
from keras_unet.disk import read_text
from keras_unet.errors import ConfigError
from keras_unet.models.precision import Precision
from keras_unet.training.devices import Devices
from keras_unet.training.explanations import explain
from keras_unet.training.presets import Preset, with_preset
from keras_unet.training.schedules import Schedule
from keras_unet.training.sections import (
    AnyPath,
    AnyText,
    DataConfig,
    LossConfig,
    ModelConfig,
    Section,
)

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

LISTING = "keras-unet train --show-settings"


class TrainConfig(Section):
    """A whole run: `steps` bounds its steps, `minutes` its time; either ends it.

    With `steps` alone, a run does not depend on how fast the machine is. `preset` fills in what is
    not given otherwise.
    """

    preset: Preset | None = Field(
        None, description='"paper": network, loss and optimizer as published, where not set'
    )
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
    oversample: float = Field(
        0.0, ge=0.0, le=1.0, description="share of tiles centred on a pixel of a drawn class > 0"
    )
    output: AnyPath = Field(Path("runs"), description="folder of the run folders")
    name: AnyText | None = Field(
        None, pattern=r"^[^/\\]+$", description="of the run folder; None: data folder and time"
    )
    devices: Devices = Field(
        "auto",
        description='"one"; "auto": the machines in TF_CONFIG; "all": and each GPU of this one',
    )
    sync_batch_norm: bool = Field(
        True, description="batch normalization over the tiles of all devices, as on one"
    )
    tile: int | None = Field(None, ge=1, description="input tile in pixels; None: chosen from data")
    batch_size: int = Field(2, ge=1, description="tiles a step, shared by all devices")
    accumulate: int = Field(
        1, ge=1, description="steps whose gradients are averaged for one change of the weights"
    )
    minutes: float | None = Field(
        None, gt=0.0, description="training time; 20 if neither it nor steps is set"
    )
    steps: int | None = Field(None, ge=1, description="steps (batches) in all")
    steps_per_epoch: int = Field(50, ge=1, description="steps between two validations")
    optimizer: Literal["adam", "sgd", "nesterov"] = Field(
        "adam", description='AdamW, "sgd" with momentum as in the paper, or Nesterov\'s'
    )
    learning_rate: float = Field(1e-3, gt=0.0, description="at its peak")
    momentum: float = Field(0.99, ge=0.0, lt=1.0, description="of sgd and nesterov")
    weight_decay: float = Field(1e-4, ge=0.0, description="of adam and nesterov, decoupled")
    schedule: Schedule = Field(
        "polynomial", description="(1 - t)^0.9, (1 + cos pi t) / 2 or 1, t the share of the run"
    )
    warmup_steps: int | None = Field(
        None, ge=0, description="steps of rising rate; None: the first 2 % of the run"
    )
    gradient_clip: float | None = Field(
        None, gt=0.0, description="greatest norm of all gradients together"
    )
    ema_decay: float = Field(
        0.0,
        ge=0.0,
        lt=1.0,
        description="above 0: validate and keep a moving average of the weights",
    )
    patience: int | None = Field(None, ge=1, description="epochs without a better score")
    monitor: Literal["mean_dice", "mean_iou", "pixel_accuracy"] = Field(
        "mean_dice", description="validation score that makes a model the best"
    )
    precision: Precision = Field(
        "auto",
        description="of the layers; auto: bfloat16 or float16 where the processor has it",
    )
    checkpoint_minutes: float = Field(
        10.0,
        gt=0.0,
        description="between checkpoints in an epoch; its end has one unless that costs over 1 %",
    )
    seed: int = Field(0, ge=0, description="of weights, tiles, augmentation and the split")

    @model_validator(mode="before")
    @classmethod
    def _filled_in(cls, tree: Any) -> Any:
        return with_preset(tree) if isinstance(tree, Mapping) else tree

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
    settings = list(settings)
    return make_config(read_tree(path, settings, data=data), source_of(path, settings))


def source_of(path: str | Path | None, settings: Sequence[str]) -> str:
    """Where settings came from, for messages."""
    given = [*([str(path)] if path else []), *(["--set"] if settings else [])]
    return " and ".join(given) or "configuration"


def read_tree(
    path: str | Path | None = None,
    settings: Iterable[str] = (),
    *,
    data: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The settings that `load_config` validates, as they are given; the defaults are left out.

    Raises:
        ConfigError: the file cannot be read, or a setting has no value.
    """
    tree: dict[str, Any] = {}
    if path is not None:
        try:
            tree = tomllib.loads(read_text(path))
        except FileNotFoundError as error:
            raise ConfigError(f"{path}: does not exist; expected a TOML file") from error
        except (OSError, tomllib.TOMLDecodeError) as error:
            raise ConfigError(f"{path}: cannot be read as TOML: {error}") from error
    if not isinstance(tree.setdefault("data", {}), dict):
        raise ConfigError(f"{path}: data: expected a section [data], got {tree['data']!r}")
    tree["data"].update({k: v for k, v in (data or {}).items() if v is not None})
    for setting in settings:
        key, found, text = setting.partition("=")
        if not found or not key:
            raise ConfigError(f"--set {setting!r}: expected key=value, such as --set minutes=20")
        _put(tree, key.strip().split("."), _value(text.strip()), setting)
    return tree


def make_config(tree: Mapping[str, Any], source: str = "configuration") -> TrainConfig:
    """Validates a tree of settings; `source` names it in the message.

    Raises:
        ConfigError: names every bad key, what was found and what was expected.
    """
    try:
        return TrainConfig.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(explain(error, source, TrainConfig, LISTING)) from error


def to_tree(config: Section) -> dict[str, Any]:
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
