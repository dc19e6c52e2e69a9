"""Finds the U-Net in a model that contains one: a subclass with a step of its own, a Sequential."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from keras_unet import geometry
from keras_unet.errors import ConfigError
from keras_unet.models.unet import structure

_SAME = 5e-3  # a softmax may be computed in bfloat16; what else a layer does differs by more


def unet_in(model: keras.Model) -> keras.Model:
    """The model itself where it is a U-Net of this package, else the one that it contains.

    Raises:
        ConfigError: it contains none, or several; or it answers otherwise than that network (or its
            softmax or sigmoid) does, so that it cannot be left out.
    """
    try:
        structure(model)
        return model
    except ConfigError as error:
        found = _inside(model)
        if len(found) != 1:
            raise (
                error
                if not found
                else ConfigError(
                    f"model {model.name!r} contains {len(found)} U-Nets; give one of them"
                )
            ) from error
    inner = found[0]
    if not _same_answers(model, inner):
        raise ConfigError(
            f"model {model.name!r} does more than the U-Net {inner.name!r} in it: give that "
            f"network, and state what is done before it (normalization=…)"
        )
    return inner


def _inside(model: keras.Model) -> list[keras.Model]:
    found = []
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            try:
                structure(layer)
                found.append(layer)
            except ConfigError:
                found += _inside(layer)
    names = {layer.name: layer for layer in model.layers}
    if not found and {"down1_conv1", "logits"} <= set(names):  # layers after its last
        found.append(keras.Model(model.input, names["logits"].output, name=model.name))
    return found


def _same_answers(model: keras.Model, inner: keras.Model) -> bool:
    """Whether the two give the same, or probabilities of the same logits, for a small image."""
    form = structure(inner)
    usual = geometry.input_size(2**form.depth, form.depth, form.padding)
    size = [known or usual for known in inner.input_shape[1:3]]
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(1, *size, form.channels)).astype(np.float32)
    answer = model(x, training=False)
    if not keras.ops.is_tensor(answer):
        return False
    expected: Any = inner(x, training=False)
    activated = keras.ops.sigmoid if form.num_classes == 1 else keras.ops.softmax
    either = [expected] + [activated(expected)] * (form.output is None)
    answer = keras.ops.convert_to_numpy(keras.ops.cast(answer, "float32"))
    return any(
        answer.shape == one.shape and np.abs(answer - one).max() <= _SAME
        for one in map(keras.ops.convert_to_numpy, either)
    )
