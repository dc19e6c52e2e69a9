"""Scores and slices that there will be: a name that is none is found before the training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from keras_unet.data import Sample
from keras_unet.errors import ConfigError
from keras_unet.evaluation import ScoreSettings, image_counts, require_objects
from keras_unet.inference import PredictOptions
from keras_unet.settings import validated
from pipelines.evaluator.policy import EvaluationPolicy
from pipelines.evaluator.slices import named, titles
from pipelines.evaluator.verdict import require_scores


def require_known(policy: EvaluationPolicy, classes: Sequence[str], *, instances: bool) -> None:
    """Checks a policy against the classes that a model will have.

    Args:
        classes: their names, background first. instances: whether labels number the objects.

    Raises:
        ConfigError: a threshold names a score or a density that there will not be, or asks for a
            gain where no direction is better; the settings of the scores do not fit the classes; or
            an option of predict is unknown.
    """
    validated(PredictOptions, policy.prediction)
    names = score_names(policy.scores, classes, instances=instances)
    require_scores(policy.thresholds, names)
    ranges = policy.density if isinstance(policy.density, int) else len(policy.density) + 1
    for threshold in policy.thresholds:
        kind, _, name = threshold.slice.partition("=")
        if kind == "density" and name and name not in titles(ranges):
            expected = ", ".join(f"density={title}" for title in titles(ranges))
            raise ConfigError(
                f"threshold on {threshold.score!r}: slice is {threshold.slice!r}; expected one of "
                f"{expected}"
            )


def score_names(
    settings: ScoreSettings, classes: Sequence[str], *, instances: bool
) -> tuple[str, ...]:
    """The scores that any image has, by path."""
    labels = np.zeros((8, 8), np.int32)
    sample = Sample("", labels[..., None], labels, labels if instances else None)
    require_objects(sample, settings)
    shares = np.full((*labels.shape, len(classes)), 1 / len(classes))
    return tuple(named(image_counts(sample, labels, shares, classes, settings), classes))
