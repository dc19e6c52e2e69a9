"""`keras-unet explore`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from keras_unet.cli.options import ClassNames, Normalization


def explore(
    image: Annotated[
        Path | None, typer.Argument(help="PNG, JPEG or TIFF. Default: made-up cells.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="A run folder, .keras file or pretrained name. Default: a small one."),
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(help="The image's labels: shows what each pixel costs.")
    ] = None,
    instances: Annotated[
        bool, typer.Option("--instances", help="Each number in the labels is one object.")
    ] = False,
    page: Annotated[int | None, typer.Option(help="Which page of a TIFF stack.")] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: a free one.")] = 0,
    browser: Annotated[bool, typer.Option(help="Open the page in a browser.")] = True,
    normalization: Normalization = None,
    class_names: ClassNames = None,
) -> None:
    """See a network at work: its feature maps, a pixel's numbers, its learning, in a local page."""
    from keras_unet.console import say
    from keras_unet.data.images import read_image, read_labels
    from keras_unet.explorer.server import explore as open_page

    shown = open_page(
        model,
        None if image is None else read_image(image, page),
        None if labels is None else read_labels(labels, page),
        name=None if image is None else image.name,
        instances=instances,
        normalization=normalization,
        class_names=class_names,
        port=port,
        browser=browser,
    )
    say(f"Open       {shown.url}  (this machine only; Ctrl+C ends it)")
    shown.wait()
