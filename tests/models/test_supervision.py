"""Deep supervision: heads that answer for the right pixels, and a network that stays plain."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from keras_unet import build_unet
from keras_unet.models.unet import head_weights, with_heads


@pytest.mark.parametrize(
    ("padding", "size", "depth"),
    [("valid", 140, 3), ("valid", 156, 3), ("same", 64, 3), ("same", 45, 2), ("valid", 20, 1)],
)
def test_every_answer_has_the_size_of_the_first(padding, size, depth):
    network = build_unet(filters=2, depth=depth, padding=padding, num_classes=3)
    before = [w.copy() for w in network.get_weights()]
    trained = with_heads(network)
    x = np.random.default_rng(0).random((1, size, size, 1), np.float32)
    answers = trained(x)
    answers = answers if isinstance(answers, list) else [answers]
    assert len(answers) == depth
    assert {tuple(a.shape) for a in answers} == {tuple(network(x).shape)}
    np.testing.assert_array_equal(answers[0], network(x))
    for a, b in zip(before, network.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("level", [2, 3])
def test_a_block_lies_over_the_pixels_it_answers_for(padding, level):
    """A spot in the input moves the coarse answer's centre of change to where the fine one's is."""
    depth = 3
    network = build_unet(filters=2, depth=depth, padding=padding, num_classes=1)
    for weight in network.trainable_weights:  # positive weights: every change adds up
        value = np.asarray(weight)
        weight.assign(
            np.abs(value) / max(np.abs(value).sum(axis=(0, 1, 2)).max(), 1e-9)
            if value.ndim == 4
            else 0 * value
        )
    trained = with_heads(network)
    head = trained.get_layer(f"head{level}_logits")
    head.set_weights([np.ones_like(w) for w in head.get_weights()])
    size = 172 if padding == "valid" else 128
    rng = np.random.default_rng(0)
    offsets = []
    for y, x in rng.integers(size // 2 - 16, size // 2 + 16, (12, 2)):
        base, spot = np.full((1, size, size, 1), 0.5, np.float32), None
        spot = base.copy()
        spot[0, y, x, 0] += 1
        change = [
            np.abs(np.asarray(a) - np.asarray(b))[0, ..., 0]
            for a, b in zip(trained(spot), trained(base), strict=True)
        ]
        centres = []
        for part in (change[0], change[level - 1]):
            grid = np.indices(part.shape).reshape(2, -1)
            centres.append((grid * part.ravel()).sum(1) / part.sum())
        offsets.append(centres[1] - centres[0])
    # a block is 2 or 4 pixels wide and a pooling takes one of two: on average there is no shift
    assert np.abs(np.mean(offsets, axis=0)).max() < 1.0


@pytest.mark.parametrize("padding", ["valid", "same"])
def test_channels_are_last_whatever_keras_is_set_to(padding):
    before = keras.config.image_data_format()
    network = build_unet(filters=2, depth=3, padding=padding)
    x = np.random.default_rng(0).random((1, 108, 108, 1), np.float32)
    expected = with_heads(network)
    try:
        keras.config.set_image_data_format("channels_first")
        trained = with_heads(network)
    finally:
        keras.config.set_image_data_format(before)
    trained.set_weights(expected.get_weights())
    for one, another in zip(trained(x), expected(x), strict=True):
        np.testing.assert_array_equal(one, another)


def test_weights_of_the_answers():
    assert head_weights(4) == [1.0, 0.5, 0.25, 0.125]
