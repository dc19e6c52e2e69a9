"""Ancestor: the trained model that a run begins with; what of its weights fits is taken.

A layer fits where one of its name has weights of the same shapes. The shapes are in the run's
record, so that a run that goes on from a checkpoint, and every machine of a cluster, freezes the
same layers without the ancestor's file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_unet.errors import ConfigError, DataError, listed
from keras_unet.models.keras_file import load_model
from keras_unet.models.unet import structure
from keras_unet.settings import Frozen

Weights = Mapping[str, list[np.ndarray]]  # by layer
CONTRACTING = "down"  # what the names of the contracting path's layers begin with


class Ancestor(Frozen):
    """What a run records of it.

    name: as its card says. digest: of its weights. layers: the shapes of each layer's weights.
    network: its settings, as a configuration has them. normalization: of grey values, how.
    """

    name: str
    digest: str
    layers: dict[str, tuple[tuple[int, ...], ...]]
    network: dict[str, Any]
    normalization: str


class Read(NamedTuple):
    """An ancestor and its weights."""

    ancestor: Ancestor
    weights: Weights


def read_ancestor(model: str, begun: Ancestor | None = None) -> Read:
    """Reads a model that a run is to begin with.

    Args:
        model: what `load_model` takes.
        begun: what the run recorded, where it has begun already.

    Raises:
        DataError: no model there, or another one than the run was begun with.
    """
    network, card = load_model(model)
    weights = {layer.name: layer.get_weights() for layer in network.layers if layer.weights}
    found = hashlib.blake2b(digest_size=12)
    for name, arrays in weights.items():
        for array in arrays:
            found.update(repr((name, array.shape)).encode())
            found.update(np.ascontiguousarray(array, np.float32).data)
    form = structure(network)
    ancestor = Ancestor(
        name=card.name,
        digest=found.hexdigest(),
        layers={name: tuple(a.shape for a in arrays) for name, arrays in weights.items()},
        network={
            "model.filters": form.filters,
            "model.depth": form.depth,
            "model.padding": form.padding,
            "model.upsampling": form.upsampling,
            "model.normalization": form.normalization or "none",
        },
        normalization=card.normalization.method,
    )
    if begun is not None and begun.digest != ancestor.digest:
        raise DataError(
            f"init={model}: other weights than this run was begun with (of {begun.name}), and it "
            "has no checkpoint to go on from. Begin a new run"
        )
    return Read(ancestor, weights)


def fitting(network: keras.Model, ancestor: Ancestor) -> tuple[list[str], dict[str, str]]:
    """Names of the layers that fit, and of the others, each with why it doesn't."""
    taken: list[str] = []
    new: dict[str, str] = {}
    for layer in network.layers:
        if not layer.weights:
            continue
        shapes = tuple(tuple(weight.shape) for weight in layer.weights)
        theirs = ancestor.layers.get(layer.name)
        if shapes == theirs:
            taken.append(layer.name)
        else:
            new[layer.name] = _difference(layer, shapes, theirs)
    return taken, new


def take(network: keras.Model, ancestor: Ancestor, weights: Weights) -> str:
    """Puts the weights that fit into a network, and says which: one line.

    Raises:
        ConfigError: none fits.
    """
    taken, new = fitting(network, ancestor)
    if not taken:
        theirs = ", ".join(f"{key}={value}" for key, value in ancestor.network.items())
        raise ConfigError(
            f"init: no layer of {ancestor.name} fits: it has {theirs}; this "
            f"run's network differs ({listed(f'{k}: {v}' for k, v in new.items())}). Set the same, "
            "or leave the network to the plan"
        )
    for name in taken:
        network.get_layer(name).set_weights(weights[name])
    every = len(taken) + len(new)
    if not new:
        return f"took all {every} layers of {ancestor.name}"
    rest = listed(f"{name} ({why})" for name, why in new.items())
    return f"took {len(taken)} of {every} layers of {ancestor.name}; new: {rest}"


def freeze_contracting(network: keras.Model, ancestor: Ancestor) -> int:
    """Keeps the contracting path's layers that were taken as they are; how many these are.

    Weights and the statistics of batch normalization stay, and the latter are used in training too.

    Raises:
        ConfigError: none of them was taken.
    """
    taken, _ = fitting(network, ancestor)
    frozen = [name for name in taken if name.startswith(CONTRACTING)]
    if not frozen:
        raise ConfigError(
            f"freeze=contracting: no layer of the contracting path of {ancestor.name} fits, and "
            "new ones have nothing to keep"
        )
    for name in frozen:
        network.get_layer(name).trainable = False
    return len(frozen)


def _difference(
    layer: keras.layers.Layer,
    ours: tuple[tuple[int, ...], ...],
    theirs: tuple[tuple[int, ...], ...] | None,
) -> str:
    """Why a layer's weights don't fit, in few words."""
    if theirs is None:
        return "not there"
    if [len(shape) for shape in ours] != [len(shape) for shape in theirs]:
        return f"{len(ours)} arrays, not {len(theirs)}"
    (*kernel, given, made), (*other, their_given, their_made) = (
        (*shapes[0][:-2], *_channels(layer, shapes[0])) for shapes in (ours, theirs)
    )
    if kernel != other:
        return f"kernel {kernel}, not {other}"
    if given == their_given:
        what = "classes" if layer.name == "logits" else "channels"
        return f"{made} {what}, not {their_made}"
    if made == their_made:
        return f"{given} channels, not {their_given}"
    return f"{given} → {made} channels, not {their_given} → {their_made}"


def _channels(layer: keras.layers.Layer, shape: tuple[int, ...]) -> tuple[int, int]:
    """Those that a layer takes and gives; of a normalization the same."""
    if len(shape) < 2:
        return shape[-1], shape[-1]
    turned = isinstance(layer, keras.layers.Conv2DTranspose)
    return (shape[-1], shape[-2]) if turned else (shape[-2], shape[-1])
