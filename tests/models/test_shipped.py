"""Each model that comes with the package: small, documented, and as good as its card says."""

from __future__ import annotations

import re

import numpy as np
import pytest
from scipy import ndimage

import keras_unet
from keras_unet.data import make_cells
from keras_unet.evaluation import confusion_matrix, object_scores, scores
from keras_unet.models import load_model, pretrained_models, structure
from keras_unet.models.pretrained.catalogue import pretrained_names

NAMES = pretrained_names()


def inside(labels):
    """Pixels of cells that touch neither the ground nor another cell."""
    return (labels > 0) & (ndimage.minimum_filter(labels, 3) == ndimage.maximum_filter(labels, 3))


def nuclei(labels, seed):
    """Fluorescence, uint8 [H, W]: each of a brightness of its own, a little out of focus, noisy."""
    rng = np.random.default_rng(seed)
    light = rng.uniform(0.4, 0.9, labels.max() + 1)
    grey = np.where(inside(labels), light[labels], 0.05)
    grey = ndimage.gaussian_filter(grey, 1.0) + rng.normal(0, 0.02, labels.shape)
    return np.clip(255 * grey, 0, 255).astype(np.uint8)


def tissue(labels, seed):
    """Stained, uint8 [H, W, 3]: violet nuclei on pink ground."""
    grey = nuclei(labels, seed)[..., None] / 255
    return (255 * (np.array([0.93, 0.80, 0.90]) - grey * np.array([0.55, 0.60, 0.35]))).astype(
        np.uint8
    )


def nerve(labels, seed):
    """Electron microscopy: dark axons in bright myelin; image uint8 and classes, both [H, W]."""
    rng = np.random.default_rng(seed)
    depth = ndimage.distance_transform_edt(inside(labels))
    classes = np.where(labels == 0, 0, np.where(depth > 9, 2, 1))
    grey = ndimage.gaussian_filter(np.array([0.4, 0.75, 0.2])[classes], 1.5)
    grey += rng.normal(0, 0.05, labels.shape)
    return np.clip(255 * grey, 0, 255).astype(np.uint8), classes


# how synthetic cells look to a model, and the least object F1
SYNTHETIC = {"nuclei": (nuclei, 0.9), "nuclei-tissue": (tissue, 0.85)}


@pytest.mark.skipif(not NAMES, reason="no models in this checkout")
def test_each_says_what_it_is_for_and_on_what_terms():
    for model in pretrained_models():
        card, release = model.card, model.card.release
        assert model.bytes <= 4_000_000, model.name
        assert (card.name, card.source) == (model.name, "train")
        assert release.scores and all(release.scores.values()), model.name
        assert {"keras_unet", "tensorflow", "keras"} <= card.versions.keys()
        assert f"name={model.name}" in release.command
        if card.labels.kind == "instances":
            assert card.diameter and card.objects and card.objects.fitted_on
        assert not re.search(r'"/(home|root|work|tmp|Users)/', card.model_dump_json()), model.name


@pytest.mark.parametrize("name", [name for name in NAMES if name in SYNTHETIC])
def test_each_finds_synthetic_cells(name):
    draw, least = SYNTHETIC[name]
    model = load_model(name)
    truth, found = [], []
    for seed in range(2):
        _, labels = make_cells((192, 192), seed=seed, diameter=22, coverage=0.4)
        truth.append(labels)
        found.append(keras_unet.segment(model, draw(labels, seed)))
    assert object_scores(truth, found)["f1"] > least


@pytest.mark.skipif("axons" not in NAMES, reason="not in this checkout")
def test_axons_and_myelin_of_synthetic_nerve():
    _, labels = make_cells((256, 256), seed=0, diameter=60, coverage=0.6)
    image, classes = nerve(labels, seed=0)
    found = keras_unet.segment("axons", image)
    matrix = confusion_matrix(classes, found, 3)
    assert scores(matrix)["mean_iou"] > 0.75


@pytest.mark.parametrize("name", NAMES)
def test_each_scores_on_real_images_as_its_card_says(shared, name):
    model = load_model(name)
    (place, scores), *_ = model.card.release.scores.items()
    total = keras_unet.evaluate(model, shared / "data" / place).total
    known = {
        "object F1": lambda: total["objects"]["f1"],
        "mean AP": lambda: total["objects"]["map_dsb2018"],
        "foreground IoU": lambda: total["iou"][model.card.classes[-1]],
        "mean IoU": lambda: total["mean_iou"],
        "mean Dice": lambda: total["mean_dice"],
    }
    assert scores.keys() <= known.keys()
    for title, value in scores.items():
        assert known[title]() == pytest.approx(value, abs=0.01), title


@pytest.mark.parametrize("name", NAMES)
def test_each_can_be_trained_further(name):
    """Every layer of a network that the plan would make of it fits."""
    from keras_unet.training.ancestor import read_ancestor, take

    ancestor, weights = read_ancestor(name)
    form = structure(load_model(name).network)
    ours = keras_unet.build_unet(
        (None, None, form.channels),
        form.num_classes,
        filters=ancestor.network["model.filters"],
        depth=ancestor.network["model.depth"],
        padding=ancestor.network["model.padding"],
        upsampling=ancestor.network["model.upsampling"],
        normalization=ancestor.network["model.normalization"],
    )
    assert take(ours, ancestor, weights).startswith("took all ")
