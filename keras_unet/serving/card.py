"""The card of a published model, `assets/model_card.json`: what it is, for people and programs."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from keras_unet._version import __version__
from keras_unet.errors import ExportError
from keras_unet.models.card import ModelCard
from keras_unet.pictures import COLORS, class_color

CARD = Path("assets", "model_card.json")
_FROZEN = ConfigDict(frozen=True, extra="forbid")


class CardFields(BaseModel):
    """What training cannot know and whoever publishes may state."""

    model_config = _FROZEN

    description: str | None = None
    authors: tuple[str, ...] = ()
    licence: str | None = None  # of the weights, an SPDX identifier such as "CC-BY-4.0"
    data_licence: str | None = None  # of the images it was trained on
    citation: str | None = None
    pixel_size: float | None = Field(default=None, gt=0)  # micrometres, of the training images


class ServedClass(BaseModel):
    """One class: its name, its value in a mask, its colour in a picture."""

    model_config = _FROZEN

    name: str
    value: int
    colour: str


class ServedCard(BaseModel):
    """A published model: how it was exported, what was stated of it, and the trained model's card.

    `model` holds normalisation, label values, training configuration, metrics and data check.
    """

    model_config = _FROZEN

    format: int = 1
    name: str
    classes: tuple[ServedClass, ...]
    fields: CardFields
    precision: str  # of the stored weights
    tile: int  # largest input tile, pixels a side
    max_pixels: int  # of one image
    exported: str
    exported_by: str
    model: ModelCard


def served_card(
    name: str,
    model: ModelCard,
    fields: CardFields,
    *,
    values: tuple[int, ...],
    precision: str,
    tile: int,
    max_pixels: int,
) -> ServedCard:
    """Puts a card together; `values` are a mask's, class by class."""
    classes = tuple(
        ServedClass(name=title, value=value, colour=_colour(i))
        for i, (title, value) in enumerate(zip(model.classes, values, strict=True))
    )
    return ServedCard(
        name=name,
        classes=classes,
        fields=fields,
        precision=precision,
        tile=tile,
        max_pixels=max_pixels,
        exported=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        exported_by=f"keras_unet {__version__}",
        model=model,
    )


def write_card(card: ServedCard, folder: Path) -> None:
    """Writes it into the SavedModel in `folder`."""
    path = folder / CARD
    path.parent.mkdir(exist_ok=True)
    path.write_text(card.model_dump_json(indent=1) + "\n", encoding="utf-8")


def _colour(number: int) -> str:
    """A class's colour in overlays, as CSS has it."""
    red, green, blue = (class_color(number) if number else COLORS[0]).tolist()
    return f"#{red:02x}{green:02x}{blue:02x}"


def read_served_card(folder: str | Path) -> ServedCard:
    """The card of a published version.

    Raises:
        ExportError: there is none, or it is damaged.
    """
    path = Path(folder) / CARD
    try:
        return ServedCard.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ExportError(
            f"{path}: cannot be read ({error.strerror}); expected a model that "
            "keras-unet export published"
        ) from error
    except ValidationError as error:
        raise ExportError(f"{path}: is no model card of keras_unet ({error})") from error
