"""Pixel of the answer, followed back: what it sees at every stage, and how a value comes about.

The numbers are worked out again from the weights, as a person would on paper; the tests compare
them with what the network computed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from keras_unet.errors import ConfigError
from keras_unet.explorer.network import Activations, Network
from keras_unet.models.plot import FeatureMap
from keras_unet.models.unet import Structure

_TERMS = 3  # input channels that are shown in full; the others are summed

Span = tuple[int, int]  # first and last


class Rectangle(NamedTuple):
    """Pixels of a stage: first row, first column, rows, columns."""

    top: int
    left: int
    height: int
    width: int


def receptive_fields(
    form: Structure, maps: Sequence[FeatureMap], y: int, x: int
) -> dict[str, list[Rectangle]]:
    """What each stage gives to one pixel of the answer.

    Args:
        form, maps: of the network, see `feature_maps`.
        y, x: of the pixel, in the logits.

    Returns:
        By the layer's name, one rectangle; for what a skip connection hands on, two: the one that
        is seen through the levels below, which holds the other, and that seen through the skip.
    """
    rows, columns = (_spans(form, maps, axis, pixel) for axis, pixel in ((0, y), (1, x)))
    return {
        name: [
            Rectangle(top, left, bottom - top + 1, right - left + 1)
            for (top, bottom), (left, right) in zip(rows[name], columns[name], strict=True)
        ]
        for name in rows
    }


def _spans(
    form: Structure, maps: Sequence[FeatureMap], axis: int, pixel: int
) -> dict[str, list[Span]]:
    """The same along one axis."""
    sizes = {m.layer: m.size[axis] for m in maps}
    crops = {m.level: m.crop for m in maps if m.kind == "concatenation"}
    before, after = (0, 2) if form.padding == "valid" else (1, 1)
    below, above = {"transpose": (0, 0), "nearest": (0, 1), "bilinear": (1, 2)}[form.upsampling]
    found: dict[str, list[Span]] = {}

    def note(name: str, low: int, high: int) -> Span:
        span = max(low, 0), min(high, sizes[name] - 1)
        found.setdefault(name, []).append(span)
        return span

    def convolved(names: Iterable[str], span: Span) -> Span:
        for name in names:
            span = note(name, span[0] - before, span[1] + after)
        return span

    if not 0 <= pixel < sizes["logits"]:
        raise ConfigError(f"pixel {pixel} is outside of the answer, 0 to {sizes['logits'] - 1}")
    span = note("logits", pixel, pixel)
    skips: dict[int, Span] = {}
    note("up1_conv2", *span)
    for level in range(1, form.depth + 1):
        span = convolved((f"up{level}_conv1", f"up{level}_concat"), span)
        skips[level] = span[0] + crops[level], span[1] + crops[level]
        deeper = f"up{level + 1}_conv2" if level < form.depth else "bridge_conv2"
        span = note(deeper, (span[0] - below) // 2, (span[1] + above) // 2)
    span = convolved(("bridge_conv1", f"down{form.depth}_pool"), span)
    for level in range(form.depth, 0, -1):
        span = note(f"down{level}_conv2", 2 * span[0], 2 * span[1] + 1)
        skip = note(f"down{level}_conv2", *skips[level])
        span = min(span[0], skip[0]), max(span[1], skip[1])
        given = f"down{level - 1}_pool" if level > 1 else "image"
        span = convolved((f"down{level}_conv1", given), span)
    return found


def middle(rectangle: Rectangle) -> tuple[int, int]:
    """The pixel (y, x) in the middle of a rectangle."""
    top, left, height, width = rectangle
    return top + (height - 1) // 2, left + (width - 1) // 2


def work_out(
    network: Network, activations: Activations, name: str, channel: int, y: int, x: int
) -> dict[str, Any]:
    """How the value of one pixel of a stage comes about, number by number.

    Args:
        name: the stage. channel, y, x: which of its values.

    Returns:
        "kind", "value" as the network has it, and what that kind of step adds up: see the helpers.

    Raises:
        ConfigError: there is no such value.
    """
    m = activations.stage(name)
    if not (0 <= y < m.size[0] and 0 <= x < m.size[1]):
        raise ConfigError(f"pixel ({y}, {x}) is outside of {name}, {m.size[0]}×{m.size[1]}")
    value = float(activations.channel(name, channel)[y, x])
    found: dict[str, Any] = {"kind": m.kind, "stage": name, "channel": channel, "y": y, "x": x}
    if m.kind == "convolution":
        found |= _convolution(network, activations, name, channel, y, x)
    elif m.kind == "pooling":
        found |= _pooling(activations, name, channel, y, x)
    elif m.kind == "concatenation":
        found |= _concatenation(network, activations, m, channel, y, x)
    elif m.kind == "logits":
        found |= _logits(network, activations, y, x)
    return found | {"value": value}


def _convolution(
    network: Network, activations: Activations, name: str, channel: int, y: int, x: int
) -> dict[str, Any]:
    """Patches times kernels of the strongest input channels, the rest, bias, sum, activation."""
    layer, given = network.layers[name], activations.before(name)
    kernel = np.asarray(layer.kernel, np.float64)[..., channel]
    rows, columns = kernel.shape[:2]
    before = (0, 0) if layer.padding == "valid" else ((rows - 1) // 2, (columns - 1) // 2)
    top, left = y - before[0], x - before[1]
    patch = activations.patch(given.layer, top, left, rows, columns)
    found = _products(patch, kernel, layer, channel)
    for term in found["terms"]:
        term["from"] = _origin(given, term["channel"])
    found["input"] = given.layer
    found["top"], found["left"] = top, left
    found["activation"] = getattr(network.activation(name), "__name__", "activation")
    if network.has_norm(name):
        found["normalised"] = float(activations.array(f"{name}_norm")[y, x, channel])
    return found


def _products(patch: np.ndarray, kernel: np.ndarray, layer: Any, channel: int) -> dict[str, Any]:
    """ "terms", the strongest input channels; "rest", what all others add; "bias" and "sum"."""
    sums = (patch * kernel).sum(axis=(0, 1))
    order = np.argsort(-np.abs(sums), kind="stable")
    shown, rest = order[:_TERMS], order[_TERMS:]
    bias = float(np.asarray(layer.bias)[channel]) if layer.use_bias else 0.0
    terms = [
        {
            "channel": int(c),
            "patch": patch[..., c].tolist(),
            "kernel": kernel[..., c].tolist(),
            "sum": float(sums[c]),
        }
        for c in shown
    ]
    return {
        "terms": terms,
        "rest": {"count": len(rest), "sum": float(sums[rest].sum())},
        "bias": bias,
        "sum": float(sums.sum() + bias),
    }


def _origin(given: FeatureMap, channel: int) -> str:
    """Which half of a concatenation a channel is from; empty for other stages."""
    if given.kind != "concatenation":
        return ""
    return "skip" if channel < given.channels[0] else "up-convolution"


def _pooling(activations: Activations, name: str, channel: int, y: int, x: int) -> dict[str, Any]:
    """The 2×2 window, and which of its values is the largest."""
    source = activations.channel(activations.before(name).layer, channel)
    window = source[2 * y : 2 * y + 2, 2 * x : 2 * x + 2]
    chosen = np.unravel_index(int(window.argmax()), window.shape)
    return {
        "input": activations.before(name).layer,
        "top": 2 * y,
        "left": 2 * x,
        "window": window.astype(float).tolist(),
        "chosen": [int(i) for i in chosen],
    }


def _concatenation(
    network: Network, activations: Activations, m: FeatureMap, channel: int, y: int, x: int
) -> dict[str, Any]:
    """A copy from the skip, shifted by the crop; or an up-convolution of the stage below."""
    skip = f"down{m.level}_conv2"
    if channel < m.channels[0]:
        return {
            "part": "skip",
            "input": skip,
            "crop": m.crop,
            "top": y + m.crop,
            "left": x + m.crop,
        }
    own = channel - m.channels[0]
    layer, below = network.layers[f"up{m.level}_upconv"], activations.before(m.layer)
    kernel = np.asarray(layer.kernel, np.float64)
    found: dict[str, Any] = {"part": "up-convolution", "own": own, "input": below.layer}
    if network.form.upsampling == "transpose":  # one input pixel, one place of the 2×2 kernel
        found |= {"top": y // 2, "left": x // 2, "tap": [y % 2, x % 2]}
        patch = activations.patch(below.layer, y // 2, x // 2, 1, 1)
        found |= _products(patch, kernel[y % 2, x % 2, own][None, None], layer, own)
    else:
        found |= {"input": f"{layer.name}_resize", "top": y, "left": x}
        patch = activations.patch(f"{layer.name}_resize", y, x, *kernel.shape[:2])
        found |= _products(patch, kernel[..., own], layer, own)
    return found


def _logits(network: Network, activations: Activations, y: int, x: int) -> dict[str, Any]:
    """The 1×1 convolution of each class, and the probabilities that the logits become."""
    layer, given = network.layers["logits"], activations.before("logits")
    kernel = np.asarray(layer.kernel, np.float64)
    patch = activations.patch(given.layer, y, x, 1, 1)
    logits = activations.array("logits")[y, x]
    return {
        "input": given.layer,
        "top": y,
        "left": x,
        "classes": [_products(patch, kernel[..., k], layer, k) for k in range(kernel.shape[-1])],
        "names": list(network.card.classes),
        "logits": logits.astype(float).tolist(),
        "probabilities": network.probabilities(logits).tolist(),
    }
