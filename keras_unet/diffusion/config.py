"""Configuration of a diffusion run: frozen, validated settings that reject unknown keys."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from keras_unet.augment.settings import AugmentPreset
from keras_unet.data.label_rule import LabelMapping
from keras_unet.diffusion.noise import Prediction
from keras_unet.machine import Precision
from keras_unet.settings import AnyPath, AnyText, Frozen, Section, validated
from keras_unet.training.config import DataConfig

LISTING = "keras-unet diffusion train --show-settings"


class NetworkConfig(Section):
    """The U-Net; see `build_diffusion_unet`."""

    filters: tuple[int, ...] = Field((48, 96, 144), description="channels of each level")
    layers_per_block: int = Field(1, ge=1, description="residual blocks of each level")
    attention_levels: int = Field(1, ge=0, description="the lowest levels, which have attention")
    head_dim: int = Field(24, ge=1, description="width of a head of attention")
    norm_groups: int = Field(8, ge=1, description="of group normalization")
    dropout: float = Field(0.0, ge=0.0, lt=1.0, description="rate in the residual blocks")

    @model_validator(mode="after")
    def _check(self) -> NetworkConfig:
        if not self.filters or any(n < 1 or n % self.norm_groups for n in self.filters):
            raise ValueError(
                f"filters {self.filters}: expected multiples of norm_groups ({self.norm_groups})"
            )
        return self


class DiffusionConfig(Section):
    """A whole run of `keras-unet diffusion train`; `steps` or `minutes` bounds it."""

    data: DataConfig
    condition: Literal["labels", "none", "class"] = Field(
        "labels", description="what images are drawn for: a mask; nothing; the class of a subfolder"
    )
    tile: int = Field(64, ge=8, le=1024, description="height and width of a training tile, pixels")
    model: NetworkConfig = NetworkConfig()
    prediction: Prediction = Field("v", description="what the network answers")
    schedule: Literal["linear", "scaled_linear", "cosine"] = Field("cosine", description="of noise")
    condition_dropout: float = Field(
        0.1, ge=0.0, lt=1.0, description="share of tiles without their condition, for guidance"
    )
    min_snr: float | None = Field(5.0, gt=0, description="gamma of min-SNR weighting")
    ema_decay: float = Field(0.999, gt=0.0, lt=1.0, description="of the average that samples")
    augment: AugmentPreset = Field("flips", description="preset of keras_unet.augment")
    batch_size: int = Field(16, ge=1, description="tiles a step")
    minutes: float | None = Field(None, gt=0.0, description="30 if neither it nor steps is set")
    steps: int | None = Field(None, ge=1, description="steps (batches) in all")
    steps_per_epoch: int = Field(50, ge=1, description="steps between two lines of history")
    learning_rate: float = Field(5e-4, gt=0.0, description="at its peak")
    weight_decay: float = Field(1e-4, ge=0.0, description="decoupled")
    gradient_clip: float = Field(1.0, gt=0.0, description="greatest norm of all gradients")
    precision: Precision = Field("auto", description="of the layers")
    checkpoint_minutes: float = Field(10.0, gt=0.0, description="between checkpoints in an epoch")
    pictures: int = Field(6, ge=0, description="grids of samples drawn while it learns")
    seed: int = Field(0, ge=0, description="of weights, tiles, times and noise")
    output: AnyPath = Field(Path("runs"), description="folder of the run folders")
    name: AnyText | None = Field(None, pattern=r"^[^/\\]+$", description="of the run folder")

    @model_validator(mode="after")
    def _check(self) -> DiffusionConfig:
        stride = 2 ** (len(self.model.filters) - 1)
        if self.tile % stride:
            raise ValueError(f"tile {self.tile}: expected a multiple of {stride}")
        return self

    @property
    def time_limit(self) -> float | None:
        """Minutes, or None where only the steps count."""
        return 30.0 if self.minutes is None and self.steps is None else self.minutes


class DiffusionCard(Frozen):
    """What must travel with the weights of a diffusion model.

    low, high: grey values [C] that -1 and 1 stand for. classes: names of what a condition can say;
    for masks of objects: background, inside, outline.
    """

    format: int = 1
    kind: Literal["diffusion"] = "diffusion"
    name: str
    condition: Literal["labels", "none", "class"]
    classes: tuple[str, ...]
    labels: LabelMapping | None
    low: tuple[float, ...]
    high: tuple[float, ...]
    image_dtype: str
    tile: int
    created: str
    versions: dict[str, str]
    config: dict[str, Any]
    metrics: dict[str, float] = Field(default_factory=dict)


def make_diffusion_config(
    tree: Mapping[str, Any], source: str = "configuration"
) -> DiffusionConfig:
    """Validates a tree of settings.

    Raises:
        ConfigError: names every bad key, what was found and what was expected.
    """
    return validated(DiffusionConfig, tree, source, LISTING)
