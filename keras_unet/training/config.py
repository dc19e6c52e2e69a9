"""Configuration of a training run: one frozen, validated object that rejects unknown keys.

It is read from TOML, from `--set section.key=value`, or built in Python; the run folder keeps it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    create_model,
    model_validator,
)

from keras_unet import geometry
from keras_unet.augment.settings import LISTING as AUGMENT_LISTING
from keras_unet.augment.settings import PRESETS as AUGMENT_PRESETS
from keras_unet.augment.settings import AugmentPreset, AugmentSettings
from keras_unet.data.label_rule import LabelKind, LabelRule
from keras_unet.data.normalization import Normalization, NormalizationMethod
from keras_unet.losses.table import LOSSES
from keras_unet.machine import Devices, Precision
from keras_unet.remote_path import local_path
from keras_unet.settings import (
    AnyPath,
    AnyText,
    Section,
    merged,
    nested_error,
    read_tree,
    source_of,
    validated,
)

AnyNormalization = Annotated[
    Annotated[NormalizationMethod, Tag("method")] | Annotated[Normalization, Tag("fitted")],
    Discriminator(lambda value: "method" if isinstance(value, str) else "fitted"),
]
Weight = Annotated[float, Field(ge=0.0)]


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
    label_kind: LabelKind = Field("semantic", description="are the numbers classes, or objects")
    label_values: tuple[int, ...] | None = Field(None, description="stored value of each class")
    label_ignore: int | None = Field(None, description="stored value of pixels that don't count")
    num_classes: int | None = Field(None, description="classes 0 … num_classes - 1")
    class_names: tuple[AnyText, ...] | None = Field(
        None, description="background first; else those of a classes.txt beside the data"
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
    upsampling: geometry.Upsampling = Field(
        "transpose", description="up-convolution, or resizing and a convolution"
    )
    normalization: Literal["none", geometry.Normalization] = Field(
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


class EntropyConfig(Section):
    """Weighted cross-entropy (paper, equations 1 and 2)."""

    w0: float = Field(10.0, ge=0.0, description="height of the border weight; 0 = no border weight")
    sigma: float = Field(5.0, gt=0.0, description="width of the border weight in pixels")
    class_weights: Literal["balanced", "none"] | tuple[Weight, ...] = Field(
        "balanced", description="weight of each class, or how to choose it"
    )
    separation: int = Field(2, ge=0, description="background line between touching cells, pixels")
    label_smoothing: float = Field(
        0.0, ge=0.0, lt=1.0, description="share of the truth spread over all classes"
    )


if TYPE_CHECKING:
    _AddedLosses = EntropyConfig
else:
    _AddedLosses = create_model(
        "_AddedLosses",
        __base__=EntropyConfig,
        **{n: (float, Field(0.0, ge=0.0, description=loss.help)) for n, loss in LOSSES.items()},
    )


class LossConfig(_AddedLosses):
    """Weighted cross-entropy, and a weight for each loss of the table that may be added to it."""

    @property
    def added(self) -> dict[str, float]:
        """The weights of the added losses, by name."""
        return {name: getattr(self, name) for name in LOSSES}


def _none(value: str) -> str | None:
    return None if value == "none" else value


LISTING = "keras-unet train --show-settings"
Preset = Literal["paper"]
Schedule = Literal["polynomial", "cosine", "constant"]  # see `callbacks.learning_rate`


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
    init: AnyText | None = Field(
        None, description="model to begin with: a pretrained name, a run folder or a .keras file"
    )
    freeze: Literal["none", "contracting"] = Field(
        "none", description="what of that model stays as it is: its contracting path"
    )
    augment: AugmentPreset = Field("paper", description="preset of keras_unet.augment")
    augment_options: dict[str, Any] = Field(
        {}, description="changes to the preset, e.g. augment_options.elastic_sigma=5"
    )
    augment_on: Literal["auto", "cpu", "accelerator"] = Field(
        "auto", description="in the data pipeline or in the training step; auto: step if GPU"
    )
    oversample: float = Field(
        0.0, ge=0.0, le=1.0, description="share of tiles centred on a pixel of a drawn class > 0"
    )
    paste: float = Field(
        0.0, ge=0.0, description="images composed by copy-paste of objects, for each training image"
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
        "auto", description="of the layers; auto: bfloat16 or float16 where the processor has it"
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

    @model_validator(mode="after")
    def _frozen_part(self) -> TrainConfig:
        if self.freeze != "none" and self.init is None:
            raise ValueError(f"freeze={self.freeze} needs init, the model whose part stays")
        return self

    @model_validator(mode="after")
    def _augmentation(self) -> TrainConfig:
        try:
            preset = AUGMENT_PRESETS[self.augment]
            AugmentSettings.model_validate({**preset, **self.augment_options})
        except ValidationError as error:
            found = nested_error(error, AugmentSettings, AUGMENT_LISTING, "augment_options.")
            raise found from error
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


def make_config(tree: Mapping[str, Any], source: str = "configuration") -> TrainConfig:
    """Validates a tree of settings; `source` names it in the message.

    Raises:
        ConfigError: names every bad key, what was found and what was expected.
    """
    return validated(TrainConfig, tree, source, LISTING)


PRESETS: dict[str, dict[str, Any]] = {
    # Ronneberger et al. 2015. Section 2: network and sizes (64 channels, 4 poolings, no padding, no
    # normalisation). Section 3: "favor large input tiles over a large batch size and hence reduce
    # the batch to a single image", momentum 0.99, Gaussian weights of sqrt(2 / N) (every network
    # here has those), w0 = 10, sigma = 5. Section 3.1: elastic deformations, drop-out at the end
    # of the contracting path. Left open there, and chosen here: the learning rate, its schedule
    # (none is mentioned), and the drop-out rate (that of the authors' release).
    "paper": {
        "model": {
            "filters": 64,
            "depth": 4,
            "padding": "valid",
            "upsampling": "transpose",
            "normalization": "none",
            "dropout": 0.5,
        },
        "loss": {
            "w0": 10.0,
            "sigma": 5.0,
            "class_weights": "balanced",
            "label_smoothing": 0.0,
            **dict.fromkeys(LOSSES, 0.0),
        },
        "augment": "paper",
        "oversample": 0.0,
        "batch_size": 1,
        "optimizer": "sgd",
        "momentum": 0.99,
        "learning_rate": 1e-3,
        "schedule": "constant",
        "warmup_steps": 0,
        "ema_decay": 0.0,
    }
}


def with_preset(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The tree of settings with what its preset says where it says nothing itself.

    An unknown preset is left for the validation of `TrainConfig` to name.
    """
    name = tree.get("preset")
    return merged(PRESETS.get(name, {}) if isinstance(name, str) else {}, tree)
