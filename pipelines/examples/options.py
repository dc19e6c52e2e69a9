"""Options of ImageExampleGen: one object that goes as JSON through TFX's metadata."""

from __future__ import annotations

import re

from pydantic import Field, field_validator

from keras_unet.data import LabelRule
from keras_unet.errors import ConfigError
from keras_unet.settings import Frozen


class ExampleOptions(Frozen):
    """How images become records.

    `max_bad_share`: one bad image in fifty is the odd torn upload, to be looked at later; more is a
    fault of the source (another camera, labels exported in another way), which should stop a
    training. So a set of less than fifty images tolerates none.
    """

    rule: LabelRule  # what label values mean, all of it stated
    groups: str | None = None  # pattern as in `data.groups`; a manifest's column goes before it
    sigma: float = Field(5.0, gt=0, allow_inf_nan=False)  # of the border term, pixels
    separation: int = Field(2, ge=0)  # background line between touching cells, pixels
    max_bad_share: float = Field(0.02, ge=0, le=1)  # of the images; more fails the run
    records_per_shard: int = Field(128, ge=1)  # 100 to 200 MB for images of 512 x 512
    seed: int = 0  # another one splits in another way

    @field_validator("groups")
    @classmethod
    def _is_a_pattern(cls, groups: str | None) -> str | None:
        try:
            re.compile(groups or "")
        except re.error as error:
            raise ValueError(f"no regular expression: {error}") from error
        return groups

    def require_stated(self) -> ExampleOptions:
        """Returns itself.

        Raises:
            ConfigError: what label values mean would depend on which values an image happens to
                hold, and each record is made on its own.
        """
        if self.rule.kind == "semantic" and self.rule.stated() is None:
            raise ConfigError(
                f"the label rule is {self.rule!r}; expected the values of the classes (values, or "
                'num_classes), or kind = "instances"'
            )
        return self
