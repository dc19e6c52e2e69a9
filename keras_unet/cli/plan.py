"""`keras-unet plan`."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import Annotated

import typer

from keras_unet.cli.options import Instances, Labels, Validation, ValidationLabels, data_section
from keras_unet.disk import write_text


def plan(
    images: Annotated[
        Path,
        typer.Argument(help="Folder with images/ and labels/, or a folder of images or stack."),
    ],
    labels: Labels = None,
    validation: Validation = None,
    validation_labels: ValidationLabels = None,
    instances: Instances = False,
    minutes: Annotated[
        float | None, typer.Option(min=0.01, help="Training time to plan for; 20 if not given.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A setting that shall stay as it is."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Write the settings, with reasons, to this TOML file.")
    ] = None,
) -> None:
    """Choose settings for a data set and this machine, with reasons: a train.toml."""
    from keras_unet.console import say
    from keras_unet.settings import read_tree
    from keras_unet.training.planning.plan import plan_tree

    given = data_section(
        images,
        labels,
        instances,
        validation=validation,
        validation_labels=validation_labels,
    )
    tree = read_tree(None, settings or (), data=given)
    if minutes is not None:
        tree["minutes"] = minutes
    made = plan_tree(tree)
    if output is None:
        typer.echo(made.to_toml(), nl=False)
        return
    output.parent.mkdir(parents=True, exist_ok=True)
    write_text(output, made.to_toml())
    say(made.to_text())
    say(f"Written to {output}. Train with: keras-unet train --config {quote(str(output))}")
