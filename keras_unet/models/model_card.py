"""Model card: what a trained network carries with it; read without TensorFlow."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from math import pi
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from keras_unet.data.label_rule import LabelMapping, default_classes
from keras_unet.data.normalization import Normalization
from keras_unet.errors import ConfigError, DataError
from keras_unet.models.decoding import Decoding, require_used
from keras_unet.settings import Frozen

CARD = "keras_unet.json"  # its place in a `.keras` file, a zip archive
# what the archive raises where it is damaged
DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError)
Text = Annotated[str, Field(min_length=1)]
Score = Annotated[float, Field(allow_inf_nan=False)]


class Release(Frozen):
    """What a model that is given to others says, beside what its training knows.

    purpose: which images it is for. not_for: which it is not for.
    data: what it was trained on. data_licence, licence: of that and of the weights, SPDX
    identifiers. citation: what to cite. command: that trained it.
    scores: of these very weights, on images that training did not see: set, score, value.
    """

    purpose: Text
    not_for: Text
    data: Text
    data_licence: Text
    licence: Text
    citation: Text | None = None
    command: Text
    scores: dict[Text, dict[Text, Score]]

    def lines(self) -> list[str]:
        """All of it, for a person."""
        said = [
            ("for", self.purpose),
            ("not for", self.not_for),
            ("licence", f"{self.licence}; training data {self.data_licence}"),
            ("trained on", self.data),
            ("by", self.command),
            *([] if self.citation is None else [("cite", self.citation)]),
            *((name, _pairs(scores)) for name, scores in self.scores.items()),
        ]
        return [f"  {title:<13} {text}" for title, text in said]


class ModelCard(Frozen):
    """What a network was trained on and how its input is prepared; stored with the weights.

    source "train": this package trained it. "script": a network that was trained elsewhere. Its
    card says what its owner states; `config`, `data` and `metrics` are empty, `labels` counts the
    classes, and `image_dtype` is what the network takes, float32.

    format: 2 since version 0.4; cards of format 1 lack what is None by default.
    objects: how its probabilities become objects; None where it answers classes, or was trained
        before this was fitted: see `decoding`.
    diameter: of its training objects in pixels, the median of circles of their areas.
    diameter_range: between which lie the medians of nine in ten of its training images.
    pixel_size: micrometres a pixel of its training images, where all state the same.
    ancestor: the model that its training began with.
    release: where it comes with this package: what it is for, its licences and scores.
    """

    format: int = 2
    source: Literal["train", "script"] = "train"
    name: str
    classes: tuple[str, ...]
    normalization: Normalization
    labels: LabelMapping
    image_dtype: str
    separation: int = 2  # width in pixels of the line between touching cells, see `scored_classes`
    created: str
    versions: dict[str, str]
    config: dict[str, Any]
    data: dict[str, Any]
    metrics: dict[str, float]
    objects: Decoding | None = None
    diameter: float | None = None
    diameter_range: tuple[float, float] | None = None
    pixel_size: float | None = None
    ancestor: str | None = None
    release: Release | None = None

    @property
    def decoding(self) -> Decoding | None:
        """How it answers objects; None: it answers classes."""
        if self.objects is None and self.labels.kind == "instances":
            across = (self.data.get("diameter") or {}).get("min") or 0.0
            return Decoding(min_size=int(0.75 * pi / 4 * across**2))
        return self.objects

    @property
    def names_classes(self) -> bool:
        """Whether anybody has said what the classes are."""
        return self.source == "train" or self.classes != default_classes(len(self.classes))

    def lines(self) -> list[str]:
        """How its input is prepared, what it was trained on and its scores, for a person."""
        grey = self.normalization.model_dump(exclude_none=True)
        rule = ", ".join(f"{k} {v}" for k, v in grey.items())
        kept = self.normalization.method == "none"
        made = "training run " if self.source == "train" else "from a script"
        lines = [
            f"  grey values   {'as they are' if kept else rule}",
            f"  {made} {self.name}, {self.created}",
            f"  versions      {_pairs(self.versions)}",
        ]
        if self.decoding is not None:
            lines.append(f"  objects       {self.decoding}")
        if self.diameter is not None:
            spread = ""
            if self.diameter_range is not None:
                low, high = self.diameter_range
                spread = f"; {low:.3g} to {high:.3g} px from image to image"
            lines.append(f"  diameter      {self.diameter:.3g} px, of its training objects{spread}")
        if self.pixel_size is not None:
            lines.append(f"  pixel size    {self.pixel_size:.4g} µm")
        if self.ancestor is not None:
            lines.append(f"  began with    {self.ancestor}")
        if self.release is not None:
            lines += self.release.lines()
        if self.metrics:
            lines.append(f"  metrics       {_pairs(self.metrics)}")
        if self.data:
            lines.append(f"  data check    {_pairs(self.data)}")
        return lines


def card_in(file: Path) -> ModelCard | None:
    """The card of a `.keras` file, without its network; None where Keras alone wrote the file.

    Raises:
        DataError: no such file, no Keras model, or a damaged card.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            if CARD not in archive.namelist():
                archive.getinfo("config.json")
                return None
            return ModelCard.model_validate_json(archive.read(CARD))
    except (OSError, KeyError, ValidationError, *DAMAGED) as error:
        raise DataError(
            f"{file}: not a model file of keras_unet ({error}); expected what train, "
            'keras_unet.save_model or model.save("….keras") writes'
        ) from error


def _pairs(values: Mapping[str, object]) -> str:
    return ", ".join(
        f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}"
        for k, v in values.items()
        if v is not None
    )


def decoding_of(card: ModelCard, changes: Mapping[str, Any]) -> Decoding | None:
    """How a model's objects are found; None: it answers classes.

    Args:
        changes: settings that are to differ from the card's, by name; None changes nothing.

    Raises:
        ConfigError: they are unknown, out of range, or for objects where there are none.
        DataError: a threshold for a model of more than two classes.
    """
    given = {name: value for name, value in changes.items() if value is not None}
    if card.decoding is not None:
        decoding = card.decoding.changed(given)
        require_used(given, decoding)
        return decoding
    if wrong := sorted(set(given) - {"threshold"}):
        raise ConfigError(
            f"{', '.join(wrong)}: this model answers classes, not objects; expected a model that "
            "was trained on instance labels (train --instances)"
        )
    if given and len(card.classes) != 2:
        raise DataError(
            f"a threshold needs a model of two classes, this one has {len(card.classes)}"
        )
    return None
