"""Feature maps of one tile: every stage of a network computed at once, drawn as pictures on demand.

A tile is what the network is given: pixels [H, W, C] after normalization. The arrays stay here;
the page is sent pictures of the channels that a person looks at.
"""

from __future__ import annotations

import functools
import io
from typing import Any, NamedTuple

import keras
import numpy as np
from PIL import Image

from keras_unet.errors import ConfigError
from keras_unet.models.blocks import CHANNELS
from keras_unet.models.keras_file import TrainedModel, in_float32
from keras_unet.models.plot import FeatureMap, feature_maps
from keras_unet.models.unet import structure

_SAMPLE = 400_000  # values that a histogram counts at most
_BINS = 60
_COARSE = 64  # rows and columns that tell how much a channel varies
_EPSILON = 1e-3  # of Keras's batch normalization


class Network:
    """A network whose stages can be looked into; a copy, so that the person's own stays as it is.

    Args:
        trained: network and card.
    """

    def __init__(self, trained: TrainedModel) -> None:
        source = in_float32(trained.network)
        self.card = trained.card
        self.form = structure(source)
        self.model = keras.models.clone_model(source)
        self._weights = source.get_weights()
        self.model.set_weights(self._weights)
        self.layers = {layer.name: layer for layer in self.model.layers}
        maps = feature_maps(self.model)
        names = [m.layer for m in maps if m.kind not in ("image", "concatenation")]
        outputs = {name: self._last(name).output for name in names}
        for level in range(1, self.form.depth + 1):  # the two parts of a concatenation are kept
            for name in (f"up{level}_upconv", f"up{level}_upconv_resize"):
                if name in self.layers:
                    outputs[name] = self.layers[name].output
        norms = {f"{n}_norm": self.layers[f"{n}_norm"].output for n in names if self.has_norm(n)}
        self._stages = keras.Model(self.model.input, {**outputs, **norms})
        self.logits = keras.Model(self.model.input, self.layers["logits"].output)

    def _last(self, name: str) -> Any:
        """The layer that ends a stage: its activation where normalization stands before it."""
        return self.layers.get(f"{name}_act", self.layers[name])

    def has_norm(self, name: str) -> bool:
        """Whether a stage is normalised between convolution and activation."""
        return f"{name}_norm" in self.layers

    def activation(self, name: str) -> Any:
        """A stage's activation function."""
        return self._last(name).activation

    def reset(self) -> None:
        """Sets the weights back to those of the model that was given."""
        self.model.set_weights(self._weights)

    def run(self, tile: np.ndarray) -> Activations:
        """Computes every stage of a tile [H, W, C], normalised."""
        found = self._stages(tile[None], training=False)
        arrays = {name: np.asarray(value)[0] for name, value in found.items()}
        height, width = tile.shape[:2]
        return Activations(feature_maps(self.model, (height, width)), {**arrays, "image": tile})

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """[..., K] of logits [..., K]; of the one logit of a binary network, [1 - p, p]."""
        if self.form.num_classes == 1:
            p = 1.0 / (1.0 + np.exp(-logits.astype(np.float64)))
            return np.concatenate([1.0 - p, p], axis=-1)
        e = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
        return e / e.sum(axis=-1, keepdims=True)


class Activations:
    """Every stage of one tile; concatenations are put together when they are asked for.

    Args:
        maps: the stages. arrays: by layer, float32 [H, W, C].
    """

    def __init__(self, maps: list[FeatureMap], arrays: dict[str, np.ndarray]) -> None:
        self.maps = {m.layer: m for m in maps}
        self.order = [m.layer for m in maps]
        self._arrays = arrays
        self.statistics = functools.lru_cache(maxsize=None)(self._statistics)

    def stage(self, name: str) -> FeatureMap:
        """A stage by its layer's name; raises ConfigError for another name."""
        if name not in self.maps:
            raise ConfigError(f"stage is {name!r}; expected one of {', '.join(self.order)}")
        return self.maps[name]

    def before(self, name: str) -> FeatureMap:
        """The stage that a stage is computed from (of a concatenation: the one below it)."""
        return self.maps[self.order[self.order.index(name) - 1]]

    def array(self, name: str) -> np.ndarray:
        """Values of a stage or of a part of one, float32 [H, W, C]."""
        m = self.maps.get(name)
        if m is None or m.kind != "concatenation":
            return self._arrays[name]
        return np.concatenate([self.skip(m), self.raised(m)], axis=-1)

    def skip(self, m: FeatureMap) -> np.ndarray:
        """What a concatenation takes of the contracting path."""
        whole = self._arrays[f"down{m.level}_conv2"]
        return whole[m.crop : m.crop + m.size[0], m.crop : m.crop + m.size[1]]

    def raised(self, m: FeatureMap) -> np.ndarray:
        """What a concatenation takes of the up-convolution; odd sizes lose a row or a column."""
        return self._arrays[f"up{m.level}_upconv"][: m.size[0], : m.size[1]]

    def channel(self, name: str, channel: int) -> np.ndarray:
        """One channel of a stage, [H, W]."""
        m = self.stage(name)
        if not 0 <= channel < sum(m.channels):
            raise ConfigError(f"channel is {channel}; {name} has 0 to {sum(m.channels) - 1}")
        if m.kind != "concatenation":
            return self._arrays[name][..., channel]
        first = m.channels[0]
        part = self.skip(m) if channel < first else self.raised(m)
        return part[..., channel - (first if channel >= first else 0)]

    def patch(self, name: str, top: int, left: int, height: int, width: int) -> np.ndarray:
        """A window of a stage [height, width, C]; zeros where it stands out, as in padding."""
        m = self.maps.get(name)
        size = self._arrays[name].shape[:2] if m is None or name in self._arrays else m.size
        y0, x0 = max(top, 0), max(left, 0)
        y1, x1 = min(top + height, size[0]), min(left + width, size[1])
        if m is not None and m.kind == "concatenation":
            parts = [part[y0:y1, x0:x1] for part in (self.skip(m), self.raised(m))]
            inside = np.concatenate(parts, axis=-1)
        else:
            inside = self._arrays[name][y0:y1, x0:x1]
        out = np.zeros((height, width, inside.shape[-1]), np.float64)
        out[y0 - top : y1 - top, x0 - left : x1 - left] = inside
        return out

    def _statistics(self, name: str) -> list[ChannelStatistics]:
        m = self.stage(name)
        parts = [self.skip(m), self.raised(m)] if m.kind == "concatenation" else [self.array(name)]
        found = []
        for part in parts:
            flat = part.reshape(-1, part.shape[-1])
            energy = np.einsum("nc,nc->c", flat, flat) / len(flat)
            numbers = zip(energy, flat.mean(0), flat.std(0), flat.min(0), flat.max(0), strict=True)
            found += [ChannelStatistics(*map(float, one)) for one in numbers]
        return found

    def shown_channel(self, name: str) -> int:
        """The channel that stands for a stage: the one whose values differ most."""
        m = self.stage(name)
        if m.kind == "logits":
            return min(1, m.channels[0] - 1)  # the first class that is no background
        step = max(1, min(m.size) // _COARSE)
        parts = [self.skip(m), self.raised(m)] if m.kind == "concatenation" else [self.array(name)]
        spread = [part[::step, ::step].std(axis=(0, 1)) for part in parts]
        return int(np.argmax(np.concatenate(spread)))

    def by_energy(self, name: str) -> list[int]:
        """The channels of a stage, that of the greatest mean square first."""
        energy = [one.energy for one in self.statistics(name)]
        return np.argsort(energy, kind="stable")[::-1].tolist()


class ChannelStatistics(NamedTuple):
    """Of the values of a channel. energy: their mean square."""

    energy: float
    mean: float
    deviation: float
    low: float
    high: float


def histograms(
    network: Network,
    activations: Activations,
    name: str,
    *,
    dropout: float = 0.0,
    normalize: bool = False,
    seed: int = 0,
) -> dict[str, Any]:
    """What dropout and batch normalization do to the values of a stage.

    Batch normalization stands before the activation: where the network has a normalization there,
    it is shown as the network has it; else each channel is shifted and scaled to mean 0 and
    variance 1 over this tile. Dropout stands after the activation: it sets a share of the values to
    0 and divides the others by what is kept.

    Args:
        name: of a stage that is a 3×3 convolution.
        dropout: share of the values that are set to 0, in [0, 1).
        normalize: shows the normalization.
        seed: of the values that are dropped.

    Returns:
        "sums", the values before the activation, and "values", those after it: each with "edges",
        "plain" and "changed" counts, and "mean", "variance" and "zeros" (a share) of both.
    """
    if activations.stage(name).kind != "convolution":
        raise ConfigError(f"{name} is no 3×3 convolution; choose one of those")
    if not 0 <= dropout < 1:
        raise ConfigError(f"dropout must be in [0, 1), got {dropout!r}")
    layer = network.layers[name]
    given = activations.array(activations.before(name).layer)
    sums = keras.ops.conv(given[None], layer.kernel, padding=layer.padding, data_format=CHANNELS)
    sums = np.asarray(sums)[0]
    if layer.use_bias:
        sums = sums + np.asarray(layer.bias)
    plain = changed = sums
    own = network.has_norm(name)
    if normalize and own:
        changed = activations.array(f"{name}_norm")
    elif normalize:
        changed = (sums - sums.mean((0, 1))) / np.sqrt(sums.var((0, 1)) + _EPSILON)
    activate = network.activation(name)
    step = max(1, sums.size // _SAMPLE)  # of pixels, each with all its channels
    plain, changed = (
        one.reshape(-1, one.shape[-1])[::step].reshape(-1) for one in (plain, changed)
    )
    values, dropped = (
        np.asarray(activate(keras.ops.convert_to_tensor(v))) for v in (plain, changed)
    )
    if dropout:
        kept = np.random.default_rng(seed).random(dropped.shape) >= dropout
        dropped = dropped * kept / (1.0 - dropout)
    return {
        "own": own,
        "sums": _two_histograms(plain, changed),
        "values": _two_histograms(values, dropped),
    }


def _two_histograms(plain: np.ndarray, changed: np.ndarray) -> dict[str, Any]:
    both = np.concatenate([plain, changed])
    low, high = np.percentile(both, [0.2, 99.8])
    edges = np.linspace(low, high if high > low else low + 1.0, _BINS + 1)
    found: dict[str, Any] = {"edges": edges.tolist()}
    for name, values in (("plain", plain), ("changed", changed)):
        counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
        found[name] = (counts / len(values)).tolist()
        found[f"{name}_numbers"] = {
            "mean": float(values.mean()),
            "variance": float(values.var()),
            "zeros": float((values == 0).mean()),
        }
    return found


@functools.cache
def _palette() -> bytes:
    """Cividis: even in brightness, and the same to colour-blind eyes (Nuñez et al. 2018)."""
    from matplotlib import colormaps

    return (colormaps["cividis"](np.arange(256))[:, :3] * 255).round().astype(np.uint8).tobytes()


def heat_png(values: np.ndarray, low: float, high: float, pixels: int | None = None) -> bytes:
    """A PNG of numbers [H, W], dark for `low` and bright for `high`.

    Args:
        pixels: the longer side of the picture, averaged or repeated; None: one pixel a number.
    """
    scaled = (values - low) * (255.0 / max(high - low, 1e-12))
    picture = Image.fromarray(np.clip(scaled, 0, 255).astype(np.uint8))
    picture = _resized(picture, pixels)
    picture.putpalette(_palette())
    return png(picture)


def image_png(pixels: np.ndarray, low: float, high: float, longest: int | None = None) -> bytes:
    """A PNG of an image [H, W, C], grey or of its first three channels."""
    scaled = (pixels.astype(np.float32) - low) * (255.0 / max(high - low, 1e-12))
    shown = np.clip(np.nan_to_num(scaled), 0, 255).astype(np.uint8)
    shown = shown[..., :3] if shown.shape[-1] >= 3 else shown[..., 0]
    return png(_resized(Image.fromarray(shown), longest))


def _resized(picture: Image.Image, longest: int | None) -> Image.Image:
    if longest is None or longest == max(picture.size):
        return picture
    share = longest / max(picture.size)
    width, height = (max(1, round(n * share)) for n in picture.size)
    way = Image.Resampling.BOX if share < 1 else Image.Resampling.NEAREST
    return picture.resize((width, height), way)


def png(picture: Image.Image) -> bytes:
    """The file, packed lightly: it goes no further than this machine."""
    file = io.BytesIO()
    picture.save(file, "PNG", compress_level=1)
    return file.getvalue()
