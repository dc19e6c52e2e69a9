"""Settings of the data checks: what the images and labels of this data set look like."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field, model_validator

from keras_unet.data import LabelMapping, LabelRule
from keras_unet.errors import ConfigError
from keras_unet.settings import Frozen


class CheckSettings(Frozen):
    """What is expected of every record; the rest of the schema is in `schema.pbtxt`.

    channels: of each image.
    values: label values that may be stored, but for that of ignored pixels; None for instances.
    dtypes: types that images may be stored in ("uint8", …); empty for any.
    min_labelled: least share of images with a cell; an empty mask is right now and then, but a
        folder of them is a broken export.
    skew: compare the evaluation split with the training split.
    drift: compare both splits with those of the last batch that passed.
    min_images: of each side, for skew and drift to be judged; of fewer only whether they have
        nothing in common, see `findings.apart`.
    tolerated: features whose anomalies are reported and stop nothing.
    """

    channels: int = Field(1, ge=1)
    values: tuple[int, ...] | None = None
    dtypes: tuple[str, ...] = ()
    min_labelled: float = Field(0.9, ge=0, le=1)
    skew: bool = True
    drift: bool = True
    min_images: int = Field(50, ge=1)
    tolerated: tuple[str, ...] = ()

    @property
    def stored(self) -> tuple[int, ...]:
        """What `label/values` may hold: of instances it tells background (0) from cells (1)."""
        return (0, 1) if self.values is None else self.values

    @model_validator(mode="after")
    def _consistent(self) -> CheckSettings:
        if self.values is not None and len(set(self.values)) < 2:
            raise ValueError(f"values is {self.values}; expected two or more label values")
        return self

    @classmethod
    def of(
        cls, labels: LabelRule | LabelMapping, channels: int, dtypes: Sequence[str] = ()
    ) -> CheckSettings:
        """For labels of this meaning.

        Raises:
            ConfigError: a rule for classes that says neither their values nor their number.
        """
        rule = labels.as_rule() if isinstance(labels, LabelMapping) else labels
        if rule.kind == "instances":
            return cls(channels=channels, dtypes=tuple(dtypes))
        values = rule.stated()
        if values is None:
            raise ConfigError(
                "the label rule leaves the values open; expected label_values or num_classes"
            )
        if rule.values is None and rule.num_classes == 2:
            values = (0, 1, 255)  # such a rule reads masks of 0 and 255 too
        return cls(channels=channels, values=values, dtypes=tuple(dtypes))
