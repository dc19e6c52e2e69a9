"""Evaluations of made-up images and predictions, for tests that need no network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy import ndimage

from keras_unet.data import LabelRule, Normalization
from keras_unet.data.samples import Sample
from keras_unet.evaluation import Evaluation, ScoreSettings
from keras_unet.evaluation.scoring import Scorer
from keras_unet.models import ModelCard

NAMES = tuple(f"image {k}" for k in range(5))


def card(name: str = "made", classes: tuple[str, ...] = ("background", "cell")) -> ModelCard:
    return ModelCard(
        name=name,
        classes=classes,
        normalization=Normalization(),
        labels=LabelRule().resolve(range(len(classes))),
        image_dtype="uint8",
        created="2026-01-01T00:00:00+00:00",
        versions={"keras_unet": "0"},
        config={"model": {"depth": 2}},
        data={"images": 3},
        metrics={},
    )


def scene(seed: int, classes: int = 2, noise: float = 0.6, size: tuple[int, int] = (40, 48)):
    """A sample of smooth blobs and probabilities [H, W, K] that are mostly right."""
    rng = np.random.default_rng(seed)
    fields = ndimage.gaussian_filter(rng.normal(size=(*size, classes)), (4, 4, 0))
    fields /= fields.std()
    logits = 3 * fields + ndimage.gaussian_filter(
        rng.normal(0, 12 * noise, fields.shape), (1.5, 1.5, 0)
    )
    odds = np.exp(logits - logits.max(-1, keepdims=True))
    probabilities = (odds / odds.sum(-1, keepdims=True)).astype(np.float32)
    truth = fields.argmax(-1).astype(np.int32)
    image = (60 * truth[..., None] + rng.integers(0, 60, (*size, 1))).astype(np.uint8)
    return truth, image, probabilities


def make_evaluation(
    folder: Path | None = None,
    *,
    name: str = "made",
    names: tuple[str, ...] = NAMES,
    classes: tuple[str, ...] = ("background", "cell"),
    noise: float = 0.6,
    first: int = 0,
    **settings,
) -> Evaluation:
    """Scores scenes, named `names`; the same scenes whatever the noise."""
    settings = {"objects": True, "resamples": 200, **settings}
    scorer = Scorer([card(name, classes)], ScoreSettings(**settings), len(names), folder, "made up")
    for number, sample_name in enumerate(names, start=first):
        truth, image, probabilities = scene(number, len(classes), noise)
        scorer.add(Sample(sample_name, image, truth), probabilities)
    return scorer.finish()
