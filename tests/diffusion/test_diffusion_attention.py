"""Attention in blocks: the same numbers and gradients, and never all scores at once."""

from __future__ import annotations

import math

import numpy as np
import pytest
from keras import ops

from keras_unet.diffusion import attention as module
from keras_unet.diffusion.attention import Attention, attention

RNG = np.random.default_rng(0)


def in_numpy(query, key, value, heads):
    def split(x):
        return x.reshape(*x.shape[:2], heads, -1).transpose(0, 2, 1, 3)

    q, k, v = (split(x) for x in (query, key, value))
    scores = q @ k.transpose(0, 1, 3, 2) / math.sqrt(q.shape[-1])
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    out = weights / weights.sum(-1, keepdims=True) @ v
    return out.transpose(0, 2, 1, 3).reshape(query.shape)


def made(tokens=13, keys=7, heads=3, width=4, batch=2):
    return [RNG.standard_normal((batch, n, heads * width)) for n in (tokens, keys, keys)]


@pytest.mark.parametrize("most", [1, 2 * 3 * 7 * 4, 2 * 3 * 7 * 5, 10**9])
def test_numbers(monkeypatch, most):
    monkeypatch.setattr(module, "MAX_SCORES", most)
    query, key, value = made()
    out = attention(*map(ops.convert_to_tensor, (query, key, value)), heads=3)
    np.testing.assert_allclose(out, in_numpy(query, key, value, 3), rtol=1e-12, atol=1e-14)


def test_sizes_that_are_not_known_in_advance(monkeypatch):
    import tensorflow as tf

    monkeypatch.setattr(module, "MAX_SCORES", 200)
    anything = [tf.TensorSpec([None, None, 12], "float64")] * 3
    compiled = tf.function(lambda q, k, v: attention(q, k, v, 3), input_signature=anything)
    for tokens, keys in ((13, 7), (1, 1), (40, 3)):
        given = made(tokens, keys)
        np.testing.assert_allclose(compiled(*given), in_numpy(*given, 3), rtol=1e-12, atol=1e-14)


def test_gradients(monkeypatch):
    import tensorflow as tf

    given = [tf.constant(x) for x in made()]

    def gradients(most):
        monkeypatch.setattr(module, "MAX_SCORES", most)

        @tf.function
        def compute(*x):
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = tf.reduce_sum(attention(*x, 3) ** 3)
            return tape.gradient(y, x)

        return compute(*given)

    for a, b in zip(gradients(100), gradients(10**9), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("training", [False, True])
def test_the_bound(training):
    """No operation of the graph, nor of its loops, has more scores than the bound."""
    import tensorflow as tf

    layer = Attention(8, 4)
    tokens = 4096
    layer.build((1, tokens, 32))

    @tf.function
    def compute(x):
        with tf.GradientTape() as tape:
            y = tf.reduce_sum(layer(x))
        return tape.gradient(y, layer.trainable_variables) if training else y

    concrete = compute.get_concrete_function(tf.TensorSpec((1, tokens, 32)))
    graphs = [concrete.graph, *(f.graph for f in concrete.graph._functions.values())]
    sizes = [
        out.shape.num_elements() or 0
        for graph in graphs
        for operation in graph.get_operations()
        for out in operation.outputs
        if out.shape.rank is not None
    ]
    assert 2**20 < max(sizes) <= module.MAX_SCORES < 8 * tokens**2


@pytest.mark.parametrize("context", [None, (2, 5, 6)])
def test_what_a_token_looks_at_adds_up_to_one(context):
    layer = Attention(2, 4)
    x = RNG.standard_normal((2, 9, 8))
    source = None if context is None else RNG.standard_normal(context)
    layer(x, source)
    weights = np.asarray(layer.probabilities(x, source))
    assert weights.shape == (2, 2, 9, 9 if context is None else 5)
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-5)


def test_upcast():
    given = [ops.cast(x, "bfloat16") for x in made()]
    out = attention(*given, heads=3, upcast=True)
    assert str(out.dtype).endswith("bfloat16'>") or "bfloat16" in str(out.dtype)
    exact = attention(*(ops.cast(x, "float32") for x in given), heads=3)
    np.testing.assert_array_equal(
        ops.cast(out, "float32"), ops.cast(ops.cast(exact, "bfloat16"), "float32")
    )
