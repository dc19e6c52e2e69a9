"""`keras-unet train`."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import Annotated

import typer


def train(
    images: Annotated[
        Path | None,
        typer.Argument(help="Folder with images/ and labels/, or a folder of images, or a stack."),
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(help="Labels, if not beside the images: a folder or a stack.")
    ] = None,
    validation: Annotated[
        Path | None,
        typer.Option(help="Labelled images to validate on; otherwise a fifth is held out."),
    ] = None,
    validation_labels: Annotated[
        Path | None, typer.Option(help="Their labels, if not beside the images.")
    ] = None,
    instances: Annotated[
        bool, typer.Option("--instances", help="Label numbers are objects, not classes.")
    ] = False,
    config: Annotated[Path | None, typer.Option(help="Settings as a TOML file.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="One setting, e.g. minutes=20."),
    ] = None,
    show: Annotated[
        bool, typer.Option("--show-settings", help="List every setting and its default, and end.")
    ] = False,
) -> None:
    """Train a U-Net on a folder of images and labels; Ctrl-C keeps what was learned."""
    from keras_unet.training.config import describe, load_config

    if show:
        typer.echo(describe())
        return
    given = {
        "images": images,
        "labels": labels,
        "validation": validation,
        "validation_labels": validation_labels,
        "label_kind": "instances" if instances else None,
    }
    checked = load_config(config, settings or (), data=given)

    from keras_unet.cli.report import console, say, show_evaluation
    from keras_unet.training.fit import train as run

    result = run(checked, console)
    show_evaluation(result.evaluation)
    folder, published = result.folder, Path("saved_models", result.folder.name)
    say(f"Look at  {folder}/overlays/ (errors in colour) and {folder}/curves.png")
    say(f"Segment  keras-unet predict {quote(str(folder))} NEW_IMAGES")
    say(f"Publish  keras-unet export {quote(str(folder))} {quote(str(published))}")
