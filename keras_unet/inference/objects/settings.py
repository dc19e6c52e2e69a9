"""How masks become objects, as one checked set of settings."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from keras_unet.data.label_rule import MOST_UNSTATED
from keras_unet.errors import ConfigError, DataError
from keras_unet.inference.objects.finding import to_instances, to_objects


class ObjectSettings(BaseModel):
    """The settings of `to_instances`, and what the values of a mask file mean.

    instances: the values are object numbers already.
    border: the value of a border class, whose pixels go to the nearest object.
    names: mask value -> class name. Without a name, 1 and 255 are "cell", 3 is "class 3".
    threshold: foreground is what exceeds it; for files of probabilities.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    threshold: float | None = Field(None, ge=0, le=1)
    connectivity: Literal[4, 8] = 4
    fill_holes: bool | int = False
    min_size: int = Field(0, ge=0)
    split: Literal["distance"] | None = None
    seed_distance: int = Field(5, ge=1)
    border: int | None = Field(None, ge=1)
    instances: bool = False
    names: dict[int, str] = {}

    @model_validator(mode="after")
    def _consistent(self) -> ObjectSettings:
        ways = {
            "threshold": self.threshold is not None,
            "border class": self.border is not None,
            "instances": self.instances,
        }
        chosen = [name for name, on in ways.items() if on]
        if len(chosen) > 1:
            raise ValueError(f"{' and '.join(chosen)} exclude each other: give one")
        if self.split is not None and (self.border is not None or self.instances):
            raise ValueError("split=distance does not go with a border class or instances")
        if self.instances and (self.min_size or self.fill_holes is not False):
            raise ValueError("instances are taken as they are: give no min_size or fill_holes")
        return self

    def find(self, mask: np.ndarray) -> tuple[np.ndarray, dict[int, str]]:
        """The objects of a mask and the class of each.

        Args:
            mask: [H, W]: a foreground probability (float) if there is a threshold, else integers;
                below 0 is background.

        Returns:
            int32 [H, W]: 0 = background, numbers without gaps (with `instances` as they were), and
            {object: class name}.

        Raises:
            DataError: more values than there can be classes.
        """
        shape: dict[str, Any] = {"connectivity": self.connectivity, "min_size": self.min_size}
        shape |= {"fill_holes": self.fill_holes}
        cut: dict[str, Any] = {"split": self.split, "seed_distance": self.seed_distance}
        if self.threshold is not None:
            labels = to_instances(mask, threshold=self.threshold, **shape, **cut)
            return labels, self._classes(dict.fromkeys(range(1, int(labels.max()) + 1), 1))
        mask = np.maximum(mask, 0)
        if self.instances:
            return mask, self._classes({int(n): 1 for n in np.unique(mask) if n})
        values = np.unique(mask)
        most = max(MOST_UNSTATED, len(self.names) + 1)
        if values.size > most:
            raise DataError(
                f"has {values.size} different values from {values[0]} to {values[-1]}; expected a "
                f"mask of up to {most} classes: if they are object numbers, say instances "
                "(--instances); if they are classes, name them (--name 2=axon)"
            )
        if self.border is not None:
            return self._named(to_objects(mask, border=self.border, **shape))
        return self._named(to_objects(mask, **shape, **cut))

    def _named(self, found: tuple[np.ndarray, dict[int, int]]) -> tuple[np.ndarray, dict[int, str]]:
        return found[0], self._classes(found[1])

    def _classes(self, kinds: dict[int, int]) -> dict[int, str]:
        def name(kind: int) -> str:
            if kind in self.names:
                return self.names[kind]
            return "cell" if kind in (1, 255) else f"class {kind}"

        return {label: name(kind) for label, kind in kinds.items()}


def make_settings(**given: object) -> ObjectSettings:
    """`ObjectSettings`, with errors that a person can read.

    Raises:
        ConfigError: unknown, out of range, or settings that exclude each other.
    """
    try:
        return ObjectSettings.model_validate(given)
    except ValidationError as error:
        lines = [
            f"{'.'.join(map(str, one['loc']))}: {one['msg']}".removeprefix(": Value error, ")
            for one in error.errors()
        ]
        raise ConfigError("; ".join(lines)) from error


def parse_names(texts: list[str]) -> dict[int, str]:
    """{value: name} from "value=name".

    Raises:
        ConfigError: no number before the sign, or no sign.
    """
    names: dict[int, str] = {}
    for text in texts:
        value, mark, name = text.partition("=")
        if not mark or not value.strip().isdecimal() or not name.strip():
            raise ConfigError(f"expected a mask value and its name, such as 2=axon; got {text!r}")
        names[int(value)] = name.strip()
    return names
