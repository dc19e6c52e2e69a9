"""`keras-unet predict`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def predict(
    model: Annotated[Path, typer.Argument(help="A run folder or a .keras file of `train`.")],
    images: Annotated[Path, typer.Argument(help="An image, a folder of images, or a TIFF stack.")],
    output: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("predictions"),
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Also write probabilities, float32 TIFF.")
    ] = False,
    threshold: Annotated[
        float | None,
        typer.Option(min=0.0, max=1.0, help="Two classes: foreground above this; default 0.5."),
    ] = None,
    tile: Annotated[int | None, typer.Option(help="Largest input tile in pixels.")] = None,
) -> None:
    """Segment images of any size: masks and overlays as PNG (TIFF for stacks)."""
    from keras_unet.cli.report import progress, say
    from keras_unet.inference.files import predict_files

    with progress("predicting") as advance:
        written = predict_files(
            model,
            images,
            output,
            probabilities=probabilities,
            threshold=threshold,
            tile=tile,
            progress=advance,
        )
    count = f"{len(written)} file{'s' * (len(written) != 1)}"
    say(f"{count} segmented. Look at {output}/*_overlay.png first.")
