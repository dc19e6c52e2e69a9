"""`keras-unet rank`."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import Annotated

import typer

from keras_unet.cli.options import Normalization


def rank(
    model: Annotated[Path, typer.Argument(help="A run folder or a .keras file.")],
    images: Annotated[
        Path, typer.Argument(help="Unlabelled: an image, a TIFF stack, a Zarr, or a folder.")
    ],
    output: Annotated[Path, typer.Option(help="Folder for ranking.csv and ranking.html.")] = Path(
        "ranking"
    ),
    normalization: Normalization = None,
    symmetries: Annotated[
        str, typer.Option(help="Average over versions of the input: none, flips, all, rotations7.")
    ] = "none",
    tile: Annotated[int | None, typer.Option(help="Largest input tile in pixels.")] = None,
) -> None:
    """Which unlabelled images to label next: those on which a model is least sure."""
    from keras_unet.console import progress, say
    from keras_unet.evaluation.ranking import FIRST, PAGE
    from keras_unet.evaluation.ranking import rank as run

    chosen = {"tile": tile, "symmetries": symmetries}
    with progress("ranking") as advance:
        ranked = run(
            model,
            images,
            normalization=normalization,
            output=output,
            prediction={k: v for k, v in chosen.items() if v not in (None, "none")},
            progress=advance,
        )
    first = ", ".join(quote(one.name) for one in ranked[:FIRST])
    many = f"these {min(FIRST, len(ranked))}" if len(ranked) > 1 else "this image"
    say(f"Label {many} first: {first}")
    say(f"Open   {output / PAGE} (where the model is unsure)")
    kind = "" if ranked[0].objects is None else "--instances "
    say(f"Then   keras-unet train LABELLED {kind}--set init={quote(str(model))}")
