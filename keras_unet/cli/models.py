"""`keras-unet models`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from keras_unet.models.pretrained.catalogue import PretrainedModel


def models(
    as_json: Annotated[bool, typer.Option("--json", help="Everything, as JSON.")] = False,
) -> None:
    """List the models that come with this package: their names stand for a trained model."""
    from keras_unet.console import say
    from keras_unet.models.pretrained.catalogue import pretrained_models

    found = pretrained_models()
    if as_json:
        typer.echo(json.dumps([model.model_dump(mode="json") for model in found], indent=1))
    elif not found:
        say("No models come with this copy of keras_unet")
    else:
        _show(found)
        first = found[0].name
        say(f"Segment    keras-unet predict {first} IMAGES")
        say(f"Fine-tune  keras-unet train DATA --set init={first}")
        say(f"All of it  keras-unet info {first}")


def _show(found: list[PretrainedModel]) -> None:
    from rich.table import Table

    from keras_unet.console import TERMINAL
    from keras_unet.disk import shown_size

    table = Table(show_lines=True)
    table.add_column("name", no_wrap=True)
    for title in ("for", "not for", "scores", "objects", "licence"):
        table.add_column(title)
    table.add_column("size", justify="right", no_wrap=True)
    for model in found:
        card, release = model.card, model.card.release
        assert release is not None
        scores = [
            f"{name}: {', '.join(f'{key} {value:.3f}' for key, value in values.items())}"
            for name, values in release.scores.items()
        ]
        across = "" if card.diameter is None else f"{card.diameter:.3g} px across"
        pixel = "" if card.pixel_size is None else f"pixels of {card.pixel_size:.3g} µm"
        table.add_row(
            model.name,
            release.purpose,
            release.not_for,
            "\n".join(scores),
            "\n".join(filter(None, [across, pixel])),
            f"{release.licence}; data {release.data_licence}",
            shown_size(model.bytes),
        )
    TERMINAL.print(table)
