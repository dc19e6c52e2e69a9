"""The networks that predict together: one, or the folds of a cross-validation."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from shlex import quote
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_unet.data.normalization import normalized
from keras_unet.errors import ConfigError, DataError
from keras_unet.inference.source import Rows, Source
from keras_unet.keras_backend import require_tensorflow
from keras_unet.models.bundle import Model as Model
from keras_unet.models.bundle import ModelCard, Stated, TrainedModel, trained_model
from keras_unet.models.unet import Structure, structure


class Member(NamedTuple):
    """One network and the card that says how its input is prepared."""

    name: str
    network: keras.Model
    form: Structure
    card: ModelCard

    def preparation(self, source: Source) -> Callable[[np.ndarray], np.ndarray]:
        """Normalises a tile by the whole image's numbers, so that tiles agree with each other.

        Raises:
            DataError: grey values do not fit those of the training images.
        """
        _same_range(source.dtype, self.card)
        shift, scale = self.card.normalization.parameters(Rows(source))
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
        folds = path.glob("fold_*") if path.is_dir() and not (path / "best.keras").is_file() else []
        numbered = [(int(m[1]), f) for f in folds if (m := re.fullmatch(r"fold_(\d+)", f.name))]
        _require_all_folds(path)
        return [fold for _, fold in sorted(numbered)] or [path]
    if isinstance(model, Sequence):
        return [one for part in model for one in listed(part)]
    raise ConfigError(f"found {type(model).__name__}, expected a model, a path or several of them")


def _require_all_folds(run: Path) -> None:
    """A cross-validation tells in `splits.json` how many folds it has; each run, when it ended."""
    if not (run / "splits.json").is_file():
        return
    try:
        count = len(json.loads((run / "splits.json").read_text(encoding="utf-8"))["folds"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{run / 'splits.json'}: not written by this version ({error})") from error
    left = [f"fold_{k}" for k in range(count) if not _finished(run / f"fold_{k}" / "run.json")]
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
