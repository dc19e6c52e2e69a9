"""Decoding: how the probabilities of an instance model become numbered objects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from keras_unet.errors import ConfigError
from keras_unet.settings import Frozen, validated


class Decoding(Frozen):
    """The settings that turn a foreground probability into objects, see `to_instances`.

    Training fits one and keeps it in the model's card; `predict`, `segment`, `evaluate` and the
    server apply it, so that a model answers objects the same way everywhere.

    threshold: what exceeds it is foreground.
    connectivity: 4: pixels that touch at a corner belong to different objects; or 8.
    fill_holes: background that an object encloses belongs to it.
    min_size: objects of fewer pixels are dropped.
    split: "neck" cuts touching objects apart at necks, "distance" from seeds at a distance; "none"
        does not.
    neck: how narrow a neck must be, as a share of the narrower part; for "neck".
    seed_distance: pixels between seeds; for "distance".
    fitted_on: what it was fitted on, for a person; "" where nothing was.
    """

    threshold: float = Field(0.5, ge=0, le=1)
    connectivity: Literal[4, 8] = 4
    fill_holes: bool = True
    min_size: int = Field(20, ge=0)
    split: Literal["neck", "distance", "none"] = "neck"
    neck: float = Field(0.9, gt=0, le=1)
    seed_distance: int = Field(5, ge=1)
    fitted_on: str = ""

    def changed(self, changes: Mapping[str, Any]) -> Decoding:
        """With what is given; None keeps what it is.

        Raises:
            ConfigError: a setting is unknown or out of range.
        """
        given = {key: value for key, value in changes.items() if value is not None}
        return validated(Decoding, {**self.model_dump(), **given}, "settings of objects")

    def enlarged(self, times: float) -> Decoding:
        """The same for objects that are so many times as large across."""
        return self.model_copy(
            update={
                "min_size": round(self.min_size * times**2),
                "seed_distance": max(1, round(self.seed_distance * times)),
            }
        )

    @property
    def arguments(self) -> dict[str, Any]:
        """What `to_instances` takes."""
        given = self.model_dump(exclude={"fitted_on"})
        return {**given, "split": None if self.split == "none" else self.split}

    def __str__(self) -> str:
        """One line for a person."""
        parts = [f"threshold {self.threshold:g}"]
        if self.fill_holes:
            parts.append("holes filled")
        if self.split == "neck":
            parts.append(f"touching ones cut apart at necks below {self.neck:.0%} of their width")
        elif self.split == "distance":
            parts.append(f"touching ones cut apart from seeds {self.seed_distance} px apart")
        if self.min_size:
            parts.append(f"at least {self.min_size} px")
        return ", ".join(parts) + (f"; fitted on {self.fitted_on}" if self.fitted_on else "")


DECODING = tuple(name for name in Decoding.model_fields if name != "fitted_on")  # what is settable


def require_used(given: Mapping[str, Any], decoding: Decoding) -> None:
    """Refuses what is stated and would change nothing.

    Args:
        given: settings by name, as they were stated. decoding: what comes of them.

    Raises:
        ConfigError: it is of another way to split.
    """
    for name, split in (("neck", "neck"), ("seed_distance", "distance")):
        if given.get(name) is not None and decoding.split != split:
            raise ConfigError(
                f"{name} is for split={split}, touching objects are split by {decoding.split}; "
                f"give split={split} too"
            )
