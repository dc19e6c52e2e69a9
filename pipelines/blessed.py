"""Baseline model of an evaluation: the served one, else the latest blessed."""

from __future__ import annotations

import ml_metadata as mlmd
from tfx.components.evaluator import constants
from tfx.components.util import model_utils
from tfx.dsl.input_resolution.strategies.latest_blessed_model_strategy import (
    LatestBlessedModelStrategy,
)
from tfx.types import Artifact

from keras_unet.serving import served_origin


class ServedOrLatestBlessed(LatestBlessedModelStrategy):
    """TFX's strategy, but first of all the model that is served; never the `candidate` itself, nor
    what no server could serve.

    The newest version at the `destination` is what servers serve: after `keras-unet rollback` an
    older model's. What the pipeline did not push (an export by hand) is no artifact, and so no
    measure; then it is the latest blessed model.

    TFX's own would, when nothing has changed, compare a blessed model with itself: it would be
    evaluated again at every run, and a gain that is asked for would take its blessing back. And a
    model that the InfraValidator refused was never published: it must not be the measure.

    Newer models than the candidate count, too: where settings go back to older ones, their model
    comes from the cache, and must not be published again over a better one without a comparison.
    """

    def __init__(self, destination: str = "") -> None:
        self._destination = destination

    def resolve_artifacts(
        self, store: mlmd.MetadataStore, input_dict: dict[str, list[Artifact]]
    ) -> dict[str, list[Artifact]] | None:
        """Of `model` and `model_blessing` one or none each; `candidate` as it is.

        Raises:
            ExportError: what the served version notes of its origin is damaged.
        """
        candidate, infra = input_dict["candidate"], input_dict["infra_blessing"]
        itself = {one.id for one in candidate}
        others = [
            one for one in input_dict["model"] if one.id not in itself and not refused(one, infra)
        ]
        origin = served_origin(self._destination) if self._destination else None
        measure = origin and (origin.model, origin.uri)
        served = [one for one in others if (one.id, one.uri) == measure]
        blessings = list(input_dict["model_blessing"])
        for among in (served, others):
            found = super().resolve_artifacts(store, {"model": among, "model_blessing": blessings})
            if found and found["model"]:
                break
        return found and {**found, "candidate": candidate, "infra_blessing": []}


def refused(model: Artifact, blessings: list[Artifact]) -> bool:
    """Whether the InfraValidator judged a model, and never for it. TFX's own names no model."""
    key = constants.ARTIFACT_PROPERTY_CURRENT_MODEL_ID_KEY
    own = [one for one in blessings if one.get_int_custom_property(key) == model.id]
    return bool(own) and not any(model_utils.is_infra_validated(one) for one in own)
