"""What a person states of a model: options that several commands share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from keras_unet.errors import ConfigError

if TYPE_CHECKING:
    from keras_unet.serving.card import CardFields

Normalization = Annotated[
    str | None,
    typer.Option(
        help="Of a script's model: image, none, a number that grey values are divided by, such as "
        "255, or JSON. Default: as they are. A trained model brings its own.",
    ),
]
ClassNames = Annotated[
    str | None, typer.Option(help="Of a script's model: background,cell. Default: made up.")
]
Description = Annotated[str | None, typer.Option(help="For the model card.")]
Author = Annotated[list[str] | None, typer.Option(help="For the model card; may be repeated.")]
Licence = Annotated[
    str | None, typer.Option("--licence", "--license", help="Of the weights, e.g. CC-BY-4.0.")
]
DataLicence = Annotated[
    str | None, typer.Option("--data-licence", "--data-license", help="Of the training images.")
]
Citation = Annotated[str | None, typer.Option(help="What to cite.")]
PixelSize = Annotated[float | None, typer.Option(help="Of the training images, in micrometres.")]


def card_fields(
    description: str | None,
    author: list[str] | None,
    licence: str | None,
    data_licence: str | None,
    citation: str | None,
    pixel_size: float | None,
) -> CardFields:
    """The options as one object; raises ConfigError for one that is out of range."""
    from pydantic import ValidationError

    from keras_unet.serving.card import CardFields

    try:
        return CardFields(
            description=description,
            authors=tuple(author or ()),
            licence=licence,
            data_licence=data_licence,
            citation=citation,
            pixel_size=pixel_size,
        )
    except ValidationError as error:
        raise ConfigError(str(error)) from error
