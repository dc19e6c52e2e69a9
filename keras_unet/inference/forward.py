"""A network and its activation as one compiled graph, for tiles of any size and number."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_unet.inference.options import Average, Precision
from keras_unet.models.bundle import in_float32
from keras_unet.models.precision import dtype_policy
from keras_unet.models.unet import structure

Forward = Callable[[np.ndarray], np.ndarray]
_FULL_PRECISION = ("logits", "probabilities")  # as `build_unet` makes them
_graphs: weakref.WeakKeyDictionary[keras.Model, dict[str, Any]] = weakref.WeakKeyDictionary()


def forward(network: keras.Model, domain: Average = "probabilities") -> Forward:
    """A function from tiles float32 [B, h, w, C] to probabilities or logits [B, h', w', K].

    Sizes are left open: measured at 572², a graph of fixed sizes is no faster on a CPU (oneDNN
    prepares its kernels for each size it meets and keeps them), so that one trace serves every
    image. The graph is kept as long as the network.
    """
    graphs = _graphs.setdefault(network, {})
    if domain not in graphs:
        graphs[domain] = _graph(network, domain)
    graph = graphs[domain]
    return lambda tiles: graph(tf.convert_to_tensor(tiles)).numpy()


def probabilities_of(logits: Any, output: str | None) -> Any:
    """Softmax, or sigmoid for one channel, unless the network ends in an activation itself."""
    if output is not None:
        return logits
    return tf.nn.sigmoid(logits) if logits.shape[-1] == 1 else tf.nn.softmax(logits)


def activated(logits: np.ndarray) -> np.ndarray:
    """`probabilities_of` for averaged logits: [..., K] float32, in place."""
    if logits.shape[-1] == 1:
        np.negative(logits, out=logits)
        np.exp(np.minimum(logits, 80.0, out=logits), out=logits)
        logits += 1.0
        return np.reciprocal(logits, out=logits)
    logits -= logits.max(axis=-1, keepdims=True)
    np.exp(logits, out=logits)
    logits /= logits.sum(axis=-1, keepdims=True)
    return logits


def in_precision(network: keras.Model, precision: Precision | None) -> keras.Model:
    """The network itself where it computes as asked, else a twin with the same weights.

    bfloat16 has 8 significant bits; the last layer and the activation stay in float32.
    """
    if precision is None:
        return network
    if precision == "auto":
        precision = "float32" if dtype_policy("auto")[0] == "float32" else "bfloat16"
    if precision == "float32":
        return in_float32(network)

    def clone(layer: keras.Layer) -> keras.Layer:
        config = layer.get_config()
        if layer.name not in _FULL_PRECISION:
            config["dtype"] = "mixed_bfloat16"
        return type(layer).from_config(config)

    twin = keras.models.clone_model(network, clone_function=clone)
    twin.set_weights(network.get_weights())
    return twin


def _graph(network: keras.Model, domain: Average) -> Any:
    network_ref = weakref.ref(network)  # the cache must not keep its own key alive
    form = structure(network)

    @tf.function(
        input_signature=[tf.TensorSpec([None, None, None, form.channels], tf.float32)],
        autograph=False,
    )
    def graph(x: Any) -> Any:
        alive = network_ref()
        assert alive is not None
        y = alive(x, training=False)
        return probabilities_of(y, form.output) if domain == "probabilities" else _logits(y, form)

    # Traced here, once; called as a tf.function it would warn of retracing where many models are.
    return graph.get_concrete_function()


def _logits(y: Any, form: Any) -> Any:
    """The logits, or what the activation leaves of them: up to a constant, and above log 1e-7."""
    if form.output is None:
        return y
    if form.output not in ("softmax", "sigmoid"):
        return y
    tiny = 1e-7
    log = tf.math.log(tf.maximum(y, tiny))
    return log - tf.math.log(tf.maximum(1.0 - y, tiny)) if form.num_classes == 1 else log
