"""Fit of a decoding: how objects are best found in the probabilities of a network.

The labels alone say how large objects are, and so what a good guess is (`guessed_decoding`). The
network's answers on training images then change what is worth it: a change counts only where it
gains more than twice its standard error over the images, since the network has seen them: with one,
necks chosen on stained tissue cost 0.05 of the F1 on others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from keras_unet.data.samples import Sample, diameters, object_areas
from keras_unet.evaluation.instances import COUNTS, judged, object_counts, rates
from keras_unet.inference.objects.finding import to_instances
from keras_unet.models.decoding import Decoding

IMAGES = 24  # looked at
LEAST_IMAGES = 4  # fewer change nothing
PREDICTED = 24_000_000  # pixels, of all images together
PIXELS = 500_000  # of an image: objects are found in its middle
_LEAST_GAIN = 0.002
_DRAWS = 200  # of images, for a standard error
_THRESHOLDS = (0.3, 0.4, 0.6, 0.7)
_NECKS = (0.8, 0.85, 0.95)
_SMALL = (0.0, 0.005, 0.01, 0.02, 0.05)  # quantiles of the objects' areas


class Sizes(NamedTuple):
    """Sizes of the objects of a training set, pixels.

    areas: ascending. medians: of the diameters of circles of these areas, image by image.
    """

    areas: np.ndarray
    medians: np.ndarray

    @property
    def diameter(self) -> float | None:
        """Median over all objects; None without any."""
        return round(float(np.median(diameters(self.areas))), 1) if self.areas.size else None

    @property
    def diameter_range(self) -> tuple[float, float] | None:
        """Between which nine in ten images have their median."""
        if not self.medians.size:
            return None
        low, high = np.quantile(self.medians, [0.05, 0.95])
        return round(float(low), 1), round(float(high), 1)

    def quantile(self, share: float) -> int:
        return int(np.quantile(self.areas, share, method="lower"))


def object_sizes(samples: Iterable[Sample]) -> Sizes:
    """The sizes of all objects of instance labels; specks of one pixel or two are none."""
    every = [object_areas(s.instances) for s in samples if s.instances is not None]
    areas = [found[found > 2] for found in every if (found > 2).any()]
    medians = np.array([np.median(diameters(found)) for found in areas])
    return Sizes(np.sort(np.concatenate(areas)) if areas else np.zeros(0, np.int64), medians)


def guessed_decoding(sizes: Sizes) -> Decoding:
    """What the sizes of objects say: the least size is 3/4 of what 99 % of the objects exceed."""
    if sizes.diameter is None:
        return Decoding()
    return Decoding(min_size=int(0.75 * sizes.quantile(0.01)))


def fit_decoding(
    predict: Callable[[np.ndarray], np.ndarray], samples: Sequence[Sample], sizes: Sizes
) -> Decoding:
    """Fits a decoding to the answers of a network on labelled images.

    The aim is the mean of the objects' F1 at an IoU of 0.5 and of the average precision over 0.5 …
    0.95, of pooled counts.

    Args:
        predict: an image as read from its file -> probabilities [H, W, K], the foreground's last.
        samples: training images with `instances`; of many or large ones a part is looked at. Never
            those that the model's scores are reported on.
        sizes: of all training objects.
    """
    guess = guessed_decoding(sizes)
    shown = _chosen(samples)
    if sizes.diameter is None or len(shown) < LEAST_IMAGES:
        return guess
    table = _Table([_shown(predict, sample) for sample in shown])
    best = guess
    smallest = sorted({*(sizes.quantile(q) for q in _SMALL), 0, guess.min_size})
    splits: list[dict[str, Any]] = [{"split": "none"}]
    splits += [{"split": "neck", "neck": neck} for neck in _NECKS]
    options: list[list[dict[str, Any]]] = [
        splits,
        [{"threshold": t} for t in _THRESHOLDS],
        [{"min_size": size} for size in smallest],  # cheap: nothing is found anew
        [{"fill_holes": False}],
    ]
    for changes in options:
        best = table.better(best, [best.changed(change) for change in changes])
    return best.changed({"fitted_on": f"{len(shown)} training images"})


def _chosen(samples: Sequence[Sample]) -> list[Sample]:
    """Evenly chosen images with objects; fewer of large ones."""
    held = [s for s in samples if s.instances is not None and s.instances.any()]
    usual = np.median([s.image[..., 0].size for s in held]) if held else 1
    most = int(np.clip(PREDICTED // usual, LEAST_IMAGES, IMAGES))
    places = np.linspace(0, len(held) - 1, min(most, len(held)))
    return [held[i] for i in np.unique(places.round().astype(int))]


def _middle(size: tuple[int, ...], pixels: float) -> tuple[slice, ...]:
    """The middle of an image that is larger than so many pixels."""
    share = min((pixels / (size[0] * size[1])) ** 0.5, 1.0)
    return tuple(
        slice((n - max(1, int(n * share))) // 2, (n + max(1, int(n * share))) // 2) for n in size
    )


class _Shown(NamedTuple):
    """Probabilities of the foreground, true objects and ignored pixels of an image, [H, W]."""

    foreground: np.ndarray
    truth: np.ndarray
    ignored: np.ndarray

    def counts(self, found: np.ndarray) -> np.ndarray:
        if self.ignored.any():
            return object_counts(*judged(self.truth, found, self.ignored))
        return object_counts(self.truth, found)


def _shown(predict: Callable[[np.ndarray], np.ndarray], sample: Sample) -> _Shown:
    """Predicted whole, so that grey values are normalised and context is there as in use."""
    assert sample.instances is not None
    whole = _middle(sample.instances.shape, PREDICTED / LEAST_IMAGES)
    foreground = np.asarray(predict(sample.measured[whole])[..., -1], np.float32)
    part = _middle(foreground.shape, PIXELS)
    return _Shown(foreground[part], sample.instances[whole][part], sample.ignored[whole][part])


class _Table:
    """Counts of objects by decoding, each image's own: what is asked again is not computed again.

    Least sizes are cheap: objects are found once for all of them.
    """

    def __init__(self, images: Sequence[_Shown]) -> None:
        self._images = images
        self._found: dict[Decoding, list[np.ndarray]] = {}
        self._counts: dict[Decoding, np.ndarray] = {}
        rng = np.random.default_rng(0)
        self._draws = rng.integers(len(images), size=(_DRAWS, len(images)))

    def counts(self, decoding: Decoding) -> np.ndarray:
        """[images, len(COUNTS)]."""
        if decoding not in self._counts:
            whole = decoding.changed({"min_size": 0})
            if whole not in self._found:
                arguments = whole.arguments
                self._found[whole] = [
                    to_instances(one.foreground, **arguments) for one in self._images
                ]
            self._counts[decoding] = np.stack(
                [
                    one.counts(_without_small(found, decoding.min_size))
                    for found, one in zip(self._found[whole], self._images, strict=True)
                ]
            )
        return self._counts[decoding]

    def better(self, now: Decoding, others: Sequence[Decoding]) -> Decoding:
        """The best of the others, if its gain is clear; else `now`."""
        best = max(others, key=lambda one: _aim(self.counts(one).sum(axis=0)))
        old, new = self.counts(now), self.counts(best)
        gain = _aim(new.sum(axis=0)) - _aim(old.sum(axis=0))
        drawn = _aim(new[self._draws].sum(axis=1)) - _aim(old[self._draws].sum(axis=1))
        return best if gain > max(2 * np.nanstd(drawn), _LEAST_GAIN) else now


def _without_small(labels: np.ndarray, least: int) -> np.ndarray:
    if not least:
        return labels
    small = np.bincount(labels.ravel()) < least
    return np.where(small[labels], 0, labels)


def _aim(counts: np.ndarray) -> np.ndarray:
    """Of counts [..., len(COUNTS)]: [...]."""
    assert counts.shape[-1] == len(COUNTS)
    found = rates(counts)
    return np.nan_to_num((found["f1"] + found["map_pooled"]) / 2)
