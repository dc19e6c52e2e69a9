"""Ensemble of the networks that predict together: one, or the folds of a cross-validation.

Each is loaded with its card and compiled with its activation; their predictions of every version of
a tile are averaged.
"""

from __future__ import annotations

import json
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from shlex import quote
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from keras_unet import run_layout
from keras_unet.data.normalization import normalized
from keras_unet.errors import ConfigError, DataError
from keras_unet.inference import symmetries
from keras_unet.inference.inputs import Rows, Source
from keras_unet.inference.options import Average, Precision
from keras_unet.keras_backend import require_tensorflow
from keras_unet.machine import dtype_policy
from keras_unet.models.keras_file import Model as Model
from keras_unet.models.keras_file import ModelCard, Stated, TrainedModel, in_float32, trained_model
from keras_unet.models.unet import Structure, structure


class Member(NamedTuple):
    """One network and the card that says how its input is prepared."""

    name: str
    network: keras.Model
    form: Structure
    card: ModelCard

    def preparation(self, source: Source, seen: Source) -> Callable[[np.ndarray], np.ndarray]:
        """Normalises a tile by the whole image's numbers, so that tiles agree with each other.

        Args:
            source: the image. seen: as the network sees it, rescaled or not.

        Raises:
            DataError: grey values do not fit those of the training images.
        """
        _same_range(source.dtype, self.card)
        # interpolation overshoots: whether the range of grey values fits, the image itself tells
        read = seen if self.card.normalization.method == "image" else source
        shift, scale = self.card.normalization.parameters(Rows(read))
        return lambda part: normalized(part, shift, scale)


def members(
    model: Model | Sequence[Model],
    normalization: Stated = None,
    class_names: str | Sequence[str] | None = None,
) -> tuple[Member, ...]:
    """Loads what predicts; several models predict together.

    Args:
        model: what `load_model` returns, the path it takes, a folder that holds `fold_0`,
            `fold_1`, … (as a cross-validation leaves it), any model of `build_unet`, or a sequence
            of these.
        normalization, class_names: of networks whose cards do not say it, see `trained_model`.

    Raises:
        DataError: a path holds no model, or an unfinished cross-validation; or the models differ
            in classes, label values, channels, depth, padding or upsampling; names both.
        ConfigError: a normalisation is given for a trained model, the sequence is empty, or Keras
            runs on another backend than TensorFlow.
    """
    require_tensorflow("predict")
    found = []
    for number, one in enumerate(listed(model), start=1):
        name = str(one) if isinstance(one, (str, Path)) else f"model {number}"
        network, card = trained_model(one, normalization=normalization, class_names=class_names)
        found.append(Member(name, network, structure(network), card))
    if not found:
        raise ConfigError("found an empty sequence of models, expected at least one")
    for other in found[1:]:
        _require_equal(found[0], other)
    return tuple(found)


def listed(model: Any) -> list[Any]:
    """The models of `members` one by one, a folder of folds as the folds' folders.

    Raises:
        DataError: a cross-validation that isn't finished.
    """
    if isinstance(model, (TrainedModel, keras.Model)):  # the first is a tuple too
        return [model]
    if isinstance(model, (str, Path)):
        path = Path(model)
        _require_all_folds(path)
        return [path] if (path / run_layout.BEST).is_file() else run_layout.folds(path) or [path]
    if isinstance(model, Sequence):
        return [one for part in model for one in listed(part)]
    raise ConfigError(f"found {type(model).__name__}, expected a model, a path or several of them")


def _require_all_folds(run: Path) -> None:
    """A cross-validation tells in `splits.json` how many folds it has; each run, when it ended."""
    if not (run / run_layout.SPLITS).is_file():
        return
    try:
        count = len(json.loads((run / run_layout.SPLITS).read_text(encoding="utf-8"))["folds"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{run / run_layout.SPLITS}: not written by this version ({error})"
        ) from error
    every = map(run_layout.fold, range(count))
    left = [name for name in every if not _finished(run / name / run_layout.RECORD)]
    if left:
        raise DataError(
            f"{run}: {count - len(left)} of {count} folds are finished (not {', '.join(left)}); "
            f"predicting averages all of them. Go on with: keras-unet train --resume "
            f"{quote(str(run))}, or name the folds to predict with"
        )


def _finished(record: Path) -> bool:
    try:
        return bool(json.loads(record.read_text(encoding="utf-8"))["finished"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _require_equal(first: Member, other: Member) -> None:
    pairs: list[tuple[str, Any, Any]] = [
        (what, getattr(first.form, field), getattr(other.form, field))
        for what, field in (
            ("channels", "channels"),
            ("class channels", "num_classes"),
            ("depth", "depth"),
            ("padding", "padding"),
            ("upsampling", "upsampling"),  # what its convolution pads is cut from every tile
        )
    ]
    if first.card.names_classes and other.card.names_classes:
        pairs.append(("classes", first.card.classes, other.card.classes))
    if first.card.source == other.card.source == "train":
        pairs.append(("label values", first.card.labels.values, other.card.labels.values))
    for what, one, two in pairs:
        if one != two:
            raise DataError(
                f"models that predict together must agree: {first.name} has {what} {one}, "
                f"{other.name} has {two}"
            )


def _same_range(dtype: np.dtype, card: ModelCard) -> None:
    """Grey values of another depth mean something else, unless each image is normalised alone."""
    trained, found = np.dtype(card.image_dtype), np.dtype(dtype)
    if card.normalization.method != "image" and trained.kind in "iu" and found.kind in "iu":
        if found == trained:
            return
        raise DataError(
            f"image of type {found}: this model was trained on {trained} images with "
            f'normalization "{card.normalization.method}"'
        )


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


Prepare = Callable[[np.ndarray], np.ndarray]  # normalises a tile of one network


def over_symmetries(
    tiles: np.ndarray,
    networks: Sequence[tuple[Prepare, Forward]],
    versions: Sequence[symmetries.Symmetry],
    average: Average,
) -> np.ndarray:
    """Probabilities of tiles [B, h, w, C] as stored: float32 [B, h', w', K], all of the output."""
    total: Any = None
    for prepare, forward in networks:
        x = prepare(tiles)
        for version in versions:
            y = version.undo(forward(np.ascontiguousarray(version.apply(x))))
            total = y if total is None else _add(total, y)
    return _mean(total, len(networks) * len(versions), average)


def over_rotations(
    window: np.ndarray,
    origin: tuple[int, int],
    square: symmetries.Square,
    networks: Sequence[tuple[Prepare, Forward]],
    average: Average,
) -> np.ndarray:
    """Probabilities float32 [step, step, K] of a square, see `symmetries.rotate`.

    Normalisation and interpolation are linear, so that their order does not matter.
    """
    total: Any = None
    for prepare, forward in networks:
        x = prepare(window)
        for angle in symmetries.ANGLES:
            y = symmetries.rotate(x, origin, square, angle, forward)
            total = y if total is None else _add(total, y)
    return _mean(total, len(networks) * len(symmetries.ANGLES), average)


def _add(total: np.ndarray, y: np.ndarray) -> np.ndarray:
    total = total if total.flags.writeable and total.flags.owndata else total.copy()
    total += y
    return total


def _mean(total: np.ndarray, count: int, average: Average) -> np.ndarray:
    if count > 1:
        total = total * np.float32(1 / count)
        if average == "logits":
            total = activated(total)
    return total
