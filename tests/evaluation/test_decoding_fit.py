"""Fit of a decoding: the labels give a guess, and images change it where it is worth it."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from keras_unet.data import Sample
from keras_unet.evaluation import decoding_fit
from keras_unet.evaluation.decoding_fit import fit_decoding, guessed_decoding, object_sizes
from keras_unet.inference import to_instances
from keras_unet.models import Decoding


def made(number, seed=0, size=96, radius=9):
    """Samples of touching discs, and beside them specks that no label has."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size]
    samples = []
    for index in range(number):
        labels = np.zeros((size, size), np.int32)
        for pair in range(3):
            cy, cx = 16 + 31 * pair, rng.uniform(20, size - 40)
            for side in range(2):
                disc = (y - cy) ** 2 + (x - cx - side * 1.7 * radius) ** 2 <= radius**2
                labels[disc & (labels == 0)] = 2 * pair + side + 1
        image = np.where(labels > 0, 0.9, 0.1).astype(np.float32)
        samples.append(Sample(f"{index}", image[..., None], (labels > 0).astype(np.int32), labels))
    return samples


def answers(image, *, level=1.0, specks=0, seed=0):
    """Probabilities that are right but for their level, and for specks of 3 x 3 pixels."""
    p = ndimage.gaussian_filter(image[..., 0], 0.7) * level
    rng = np.random.default_rng([seed, int(image.sum())])
    for y, x in rng.integers(0, len(p) - 3, (specks, 2)):
        p[y : y + 3, x : x + 3] = np.maximum(p[y : y + 3, x : x + 3], 0.8 * level)
    return np.stack([1 - p, p], axis=-1)


def test_sizes_and_the_guess_of_labels_alone():
    samples = made(5)
    sizes = object_sizes(samples)
    areas = np.sort(np.concatenate([np.bincount(s.instances.ravel())[1:] for s in samples]))
    assert np.array_equal(sizes.areas, areas)
    assert sizes.diameter == pytest.approx(2 * np.sqrt(np.median(areas) / np.pi), abs=0.051)
    small = [Sample("small", s.image, s.classes, s.instances // 5) for s in samples[:1]]
    across = [np.bincount(s.instances.ravel())[1:] for s in samples + small]
    medians = [np.median(2 * np.sqrt(areas / np.pi)) for areas in across]
    expected = tuple(np.quantile(medians, [0.05, 0.95]))
    assert object_sizes(samples + small).diameter_range == pytest.approx(expected, abs=0.051)
    assert expected[1] - expected[0] > 1
    assert guessed_decoding(sizes) == Decoding(min_size=int(0.75 * areas[0]))
    nothing = object_sizes([Sample("a", np.zeros((4, 4, 1)), np.zeros((4, 4), np.int32))])
    assert nothing.diameter is None and nothing.diameter_range is None
    assert guessed_decoding(nothing) == Decoding()


def test_a_good_guess_stays():
    samples = made(8)
    sizes = object_sizes(samples)
    fitted = fit_decoding(answers, samples, sizes)
    guess = guessed_decoding(sizes)
    assert fitted == guess.changed(
        {"fitted_on": "8 training images", "threshold": fitted.threshold}
    )
    truth = samples[0].instances
    assert to_instances(answers(samples[0].image)[..., 1], **fitted.arguments).max() == truth.max()


def test_a_network_that_answers_too_low_gets_a_lower_threshold():
    samples = made(8)
    fitted = fit_decoding(lambda x: answers(x, level=0.5), samples, object_sizes(samples))
    assert fitted.threshold < 0.45


def test_no_images_or_no_objects_change_nothing():
    samples = made(decoding_fit.LEAST_IMAGES - 1)
    sizes = object_sizes(samples)

    def never(image):
        raise AssertionError("nothing is to be predicted")

    assert fit_decoding(never, samples, sizes) == guessed_decoding(sizes)
    empty = [Sample("a", s.image, s.classes * 0, s.instances * 0) for s in made(9)]
    assert fit_decoding(never, empty, object_sizes(empty)) == Decoding()


def test_a_change_must_gain_more_than_its_error():
    """Touching discs of one image in eight: splitting them is worth less than it is uncertain."""
    rng = np.random.default_rng(0)
    truth, found = np.zeros((64, 64), np.int32), np.zeros((64, 64), np.float32)
    truth[10:30, 10:30] = 1
    found[10:30, 10:30] = 0.9
    given = found + rng.uniform(0, 1e-3, found.shape).astype(np.float32)
    table = decoding_fit._Table([decoding_fit._Shown(given, truth, truth < 0)] * 8)
    now = Decoding(min_size=0)
    assert table.better(now, [now.changed({"neck": 0.8}), now]) == now  # no gain at all
    lost = now.changed({"min_size": 500})  # drops every object
    assert table.better(lost, [now]) == now


def test_large_images_are_predicted_whole_and_looked_at_in_part(monkeypatch):
    monkeypatch.setattr(decoding_fit, "PIXELS", 48 * 48)
    seen, looked_at = [], []

    def look(image):
        seen.append(image.shape[:2])
        return answers(image)

    find = decoding_fit.to_instances
    monkeypatch.setattr(
        decoding_fit, "to_instances", lambda p, **how: looked_at.append(p.shape) or find(p, **how)
    )
    fit_decoding(look, made(4), object_sizes(made(4)))
    assert seen == [(96, 96)] * 4 and set(looked_at) == {(48, 48)}
    monkeypatch.setattr(decoding_fit, "PREDICTED", 4 * 60 * 60)
    seen.clear()
    fit_decoding(look, made(9), object_sizes(made(9)))
    assert seen == [(60, 60)] * 4
