"""`segment`: objects of a model of instance labels, classes of another."""

from __future__ import annotations

import numpy as np
import pytest

from keras_unet import predict, segment
from keras_unet.data import LabelRule, make_cells
from keras_unet.errors import ConfigError, DataError
from keras_unet.inference import to_instances
from keras_unet.models import Decoding
from keras_unet.models.model_card import decoding_of


@pytest.fixture
def image():
    return make_cells((90, 110), seed=3)[0]


def of_objects(trained, objects=None):
    labels = LabelRule(kind="instances").resolve(range(3))
    return trained._replace(
        card=trained.card.model_copy(update={"labels": labels, "objects": objects})
    )


def test_classes_of_a_model_of_classes(trained, image):
    probabilities = predict(trained, image)
    found = segment(trained, image)
    assert found.dtype == np.int32 and np.array_equal(found, probabilities.argmax(-1))
    level = float(np.median(probabilities[..., 1]))
    found = segment(trained, image, threshold=level)
    assert np.array_equal(found, probabilities[..., 1] > level) and 0 < found.mean() < 1


def test_objects_as_the_card_says_and_as_asked(trained, image):
    probability = predict(trained, image)[..., 1]
    level = float(np.quantile(probability, 0.7))
    decoding = Decoding(threshold=level, min_size=3, fill_holes=False)
    model = of_objects(trained, decoding)
    found = segment(model, image)
    assert found.dtype == np.int32 and found.max() > 3
    assert np.array_equal(found, to_instances(probability, **decoding.arguments))
    whole = segment(model, image, split="none", min_size=0)
    expected = to_instances(probability, threshold=level)
    assert np.array_equal(whole, expected) and whole.max() != found.max()
    tiled = segment(model, image, tile=60, batch_size=1)
    assert np.array_equal(tiled > 0, found > 0)


def test_a_model_from_before_answers_objects_too(trained):
    card = of_objects(trained).card
    assert card.decoding == Decoding(min_size=0)
    known = card.model_copy(update={"data": {"diameter": {"min": 6.0, "median": 20.0}}})
    assert known.decoding == Decoding(min_size=21)  # 3/4 of the smallest object
    old = card.model_dump(mode="json")
    for added in ("objects", "diameter", "pixel_size", "ancestor"):
        del old[added]
    again = type(card).model_validate({**old, "format": 1})
    assert again.decoding == Decoding(min_size=0) and again.ancestor is None


def test_what_does_not_fit_is_refused(trained, image):
    with pytest.raises(ConfigError, match="min_size, split: this model answers classes"):
        segment(trained, image, split="neck", min_size=3)
    with pytest.raises(ConfigError, match=r"neck: Input .* got 2"):
        segment(of_objects(trained), image, neck=2)
    with pytest.raises(ConfigError, match="nek"):
        segment(of_objects(trained), image, nek=0.5)
    three = trained.card.model_copy(update={"classes": ("a", "b", "c")})
    with pytest.raises(DataError, match="model of two classes, this one has 3"):
        decoding_of(three, {"threshold": 0.4})
