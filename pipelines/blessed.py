"""Which model a new one must hold its own against: the latest blessed one before it."""

from __future__ import annotations

import ml_metadata as mlmd
from tfx.dsl.input_resolution.strategies.latest_blessed_model_strategy import (
    LatestBlessedModelStrategy,
)
from tfx.types import Artifact


class LatestBlessedBefore(LatestBlessedModelStrategy):
    """TFX's strategy without the `candidate` itself and what came after it.

    TFX's own would, when nothing has changed, compare a blessed model with itself: it would be
    evaluated again at every run, and a gain that is asked for would take its blessing back.
    """

    def resolve_artifacts(
        self, store: mlmd.MetadataStore, input_dict: dict[str, list[Artifact]]
    ) -> dict[str, list[Artifact]] | None:
        """Of `model` and `model_blessing` one or none each; `candidate` as it is."""
        candidate = input_dict["candidate"]
        newest = max((one.id for one in candidate), default=0)
        before = {
            "model": [one for one in input_dict["model"] if one.id < newest],
            "model_blessing": list(input_dict["model_blessing"]),
        }
        found = super().resolve_artifacts(store, before)
        return found and {**found, "candidate": candidate}
