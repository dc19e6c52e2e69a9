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
    table.add_column("for")
    table.add_column("scores")
    for model in found:
        card, release = model.card, model.card.release
        assert release is not None
        size = [shown_size(model.bytes)]
        size += [] if card.diameter is None else [f"objects {card.diameter:.3g} px"]
        size += [] if card.pixel_size is None else [f"{card.pixel_size:.3g} µm a pixel"]
        scores = [
            f"{name}: {', '.join(f'{key} {value:.3f}' for key, value in values.items())}"
            for name, values in release.scores.items()
        ]
        table.add_row(
            "\n".join([f"[bold]{model.name}[/bold]", *size]),
            f"{release.purpose}\n[dim]not for {release.not_for}[/dim]\n"
            f"licence {release.licence}; training data {release.data_licence}",
            "\n".join(scores),
        )
    TERMINAL.print(table)
