"""One image's lesson: losses, one step of gradient descent, warps and histograms."""

from __future__ import annotations

import numpy as np
import pytest

from keras_unet import build_unet
from keras_unet.augment import Augment
from keras_unet.augment.draws import sample_seeds
from keras_unet.augment.settings import make_settings, preset_settings
from keras_unet.data import make_cells
from keras_unet.data.label_rule import IGNORED, LabelMapping
from keras_unet.errors import ConfigError, DataError
from keras_unet.explorer import lesson
from keras_unet.explorer.network import Network, histograms
from keras_unet.models import trained_model


@pytest.fixture(scope="module")
def network():
    return Network(trained_model(build_unet(filters=4, depth=1)))


def test_cross_entropy_is_minus_the_log_of_the_true_class():
    logits = np.array([[[0.0, 2.0], [1.0, -1.0]]], np.float32)
    classes = np.array([[1, IGNORED]], np.int32)
    found = lesson.cross_entropy(logits, classes)
    assert found[0, 0] == pytest.approx(np.log1p(np.exp(-2.0)), rel=1e-5)
    assert found[0, 1] == 0


def test_what_lies_outside_of_the_image_does_not_count(network):
    labels = np.zeros((20, 30), np.int32)
    labels[5:15, 5:14], labels[5:15, 14:20] = 1, 2
    mapping = lesson.mapping_for(network.card, labels, instances=True)
    goal = lesson.targets(network.card, mapping, labels, (-4, -2), (40, 40))
    assert (goal.classes[:4] == IGNORED).all() and (goal.classes[24:] == IGNORED).all()
    assert (goal.weight[goal.classes == IGNORED] == 0).all()
    inside = goal.classes[4:24, 2:32]
    assert inside[10, 7] == 1 and inside[0, 0] == 0
    assert inside[10, 13] == 0  # the line between the two, where the weight is largest
    assert goal.weight[4 + 10, 2 + 13] > 5


def test_labels_that_are_objects_are_refused_as_classes(network):
    labels = np.arange(64, dtype=np.int32).reshape(8, 8)
    with pytest.raises(DataError, match="--instances"):
        lesson.mapping_for(network.card, labels, instances=False)
    assert lesson.mapping_for(network.card, labels, instances=True).kind == "instances"
    mask = np.where(labels > 20, 255, 0).astype(np.int32)
    assert lesson.mapping_for(network.card, mask, instances=False).values == (0, 255)


def test_values_that_a_model_was_trained_on_stay_what_they_mean(network):
    card = network.card.model_copy(
        update={"labels": LabelMapping(kind="semantic", values=(0, 128, 255))}
    )
    mask = np.array([[0, 255]], np.int32)
    mapping = lesson.mapping_for(card, mask, instances=False)
    assert mapping.classes(mask).tolist() == [[0, 2]]


def test_a_step_that_is_too_long_leaves_the_weights(network):
    rng = np.random.default_rng(0)
    tile = rng.normal(size=(36, 36, 1)).astype(np.float32)
    size = network.run(tile).maps["logits"].size
    goal = lesson.Targets(rng.integers(0, 2, size, np.int32), np.ones(size, np.float32))
    before = [w.copy() for w in network.model.get_weights()]
    with pytest.raises(ConfigError, match="too long"):
        for _ in range(20):
            lesson.gradient_step(network, tile * 1e6, goal, 10.0)
            before = [w.copy() for w in network.model.get_weights()]
    for now, then in zip(network.model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)
    network.reset()


def test_a_step_lowers_the_loss_and_reset_undoes_it(network):
    image, labels = make_cells((32, 32), seed=2)
    given = (image[..., None] / 255).astype(np.float32)
    tile = np.pad(given, ((4, 4), (4, 4), (0, 0)), "reflect")[:36, :36]
    size = network.run(tile).maps["logits"].size
    mapping = lesson.mapping_for(network.card, labels, instances=True)
    goal = lesson.targets(network.card, mapping, labels, (0, 0), size)
    before = [w.copy() for w in network.model.get_weights()]
    found = lesson.gradient_step(network, tile, goal, 0.01)
    assert found["after"] < found["before"]
    sizes = [abs(one["after"] - one["before"]) for one in found["moved"]]
    assert sizes == sorted(sizes, reverse=True) and len(sizes) == 8
    changes = [
        np.abs(a - b).max() for a, b in zip(network.model.get_weights(), before, strict=True)
    ]
    assert sizes[0] == pytest.approx(max(changes), rel=1e-3)
    again = lesson.gradient_step(network, tile, goal, 0.01)
    assert again["before"] == pytest.approx(found["after"], rel=1e-5)
    network.reset()
    for one, old in zip(network.model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, old)
    with pytest.raises(ConfigError, match="rate"):
        lesson.gradient_step(network, tile, goal, 0.0)


@pytest.mark.parametrize(
    "settings",
    [
        make_settings(),
        preset_settings("paper"),
        make_settings(elastic_sigma=6, elastic_grid=(7, 7), scale=(0.8, 1.25), shear=(-9, 9)),
        make_settings(noise=(0.0, 0.2), multiply=(0.9, 1.1)),
    ],
)
def test_a_warp_is_what_augment_makes_of_the_same_seed(settings):
    image, labels = make_cells((48, 64), seed=1)
    found = lesson.warp(image[..., None], labels, settings, seed=5)
    new, label = Augment(settings)(
        image[None, ..., None], labels[None].astype(np.int32), seeds=sample_seeds(0, 0, 5)
    )
    np.testing.assert_allclose(found.image, new[0], atol=0.05)
    assert (found.labels == label[0].numpy()).mean() > 0.999
    assert found.places.shape == (48, 64, 2)
    picture = lesson.draw_warp(found.image, found.places, found.labels, 0, 255, 12)
    assert picture.size == (64, 48)


def test_histograms_show_what_normalization_and_dropout_do(network):
    activations = network.run(np.random.default_rng(0).normal(2, 3, (60, 60, 1)).astype("float32"))
    plain = histograms(network, activations, "bridge_conv1")
    assert plain["sums"]["plain"] == plain["sums"]["changed"]
    found = histograms(network, activations, "bridge_conv1", normalize=True, dropout=0.5)
    numbers = found["sums"]["changed_numbers"]
    assert numbers["mean"] == pytest.approx(0, abs=1e-2)
    assert numbers["variance"] == pytest.approx(1, abs=2e-2)
    assert found["values"]["changed_numbers"]["zeros"] == pytest.approx(0.75, abs=0.1)
    assert sum(found["sums"]["changed"]) == pytest.approx(1)
    with pytest.raises(ConfigError, match="no 3×3 convolution"):
        histograms(network, activations, "down1_pool")
    with pytest.raises(ConfigError, match="dropout"):
        histograms(network, activations, "bridge_conv1", dropout=1.0)


def test_the_networks_own_normalization_is_shown():
    model = build_unet(filters=2, depth=1, normalization="batch")
    network = Network(trained_model(model))
    activations = network.run(np.ones((44, 44, 1), np.float32))
    found = histograms(network, activations, "down1_conv1", normalize=True)
    assert found["own"]
