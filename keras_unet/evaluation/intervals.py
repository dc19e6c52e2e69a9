"""How far a score would move with other images of the same kind: bootstrap over images."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
from scipy import stats

MOST_FOR_BCA = 1000  # images; the jackknife of BCa takes the square of them
FEW = 10  # images: with fewer, it is said that intervals mean little
_AT_ONCE = 2_000_000  # drawn numbers held in memory


def intervals(
    statistic: Callable[[np.ndarray], np.ndarray],
    images: int,
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> np.ndarray:
    """Bootstrap intervals of several scores at once, each draw with the same images for all.

    Images are drawn with replacement, all their pixels and objects together. The interval is BCa
    (Efron 1987) up to `MOST_FOR_BCA` images and the percentile one beyond. Where BCa is not
    defined (equal scores in all draws, or a draw without the class), it is the percentiles of the
    draws in which the score is defined.

    It says how much the choice of images matters, not what another training would give. With a
    handful of images it is wide, and still narrower than it should be: fewer than about ten say
    little.

    Args:
        statistic: image numbers [..., draws, images] -> scores [S, ..., draws].
        images: how many there are.
        confidence: in (0, 1). resamples: number of draws. seed: of the draws.

    Returns:
        float64 [S, 2]: low, high; NaN for fewer than two images, no draws, or an undefined score.
    """
    every = np.arange(images)
    shape = np.shape(statistic(every))
    if images < 2 or resamples < 1:
        return np.full((*shape, 2), np.nan)
    # scipy wants data of the result's shape: the same numbers once for each score
    data = np.broadcast_to(every, (*shape, images))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        with np.errstate(all="ignore"):  # BCa of equal scores divides by 0 and is replaced below
            found = stats.bootstrap(
                (data,),
                lambda drawn, axis: statistic(drawn[0]),
                n_resamples=resamples,
                batch=max(1, _AT_ONCE // data.size),
                vectorized=True,
                axis=-1,
                confidence_level=confidence,
                method="BCa" if images <= MOST_FOR_BCA else "percentile",
                random_state=np.random.default_rng(seed),
            )
    limits = np.stack([found.confidence_interval.low, found.confidence_interval.high], axis=-1)
    draws = found.bootstrap_distribution
    for place in np.flatnonzero(np.isnan(limits).any(axis=-1)):
        defined = draws[place][~np.isnan(draws[place])]
        if defined.size:
            limits[place] = np.quantile(defined, [(1 - confidence) / 2, (1 + confidence) / 2])
    return limits


def interval_notes(
    images: int, confidence: float, resamples: int, seed: int = 0
) -> tuple[str, ...]:
    """How intervals were made, in words, and how far they can be trusted."""
    if images < 2:
        return ("no intervals: they need two images or more",)
    if not resamples:
        return ()
    method = "BCa" if images <= MOST_FOR_BCA else "percentile"
    notes = [
        f"Intervals: {confidence:.0%}, {method} bootstrap over {images} images, {resamples} draws, "
        f"seed {seed}."
    ]
    if images < FEW:
        notes.append(
            f"{images} images are few: an interval from so few is a rough guide, rather too narrow "
            "than too wide."
        )
    return tuple(notes)
