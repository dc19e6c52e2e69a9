"""`keras-unet evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def evaluate(
    model: Annotated[Path, typer.Argument(help="A run folder or a .keras file of `train`.")],
    images: Annotated[Path, typer.Argument(help="Folder with images/ and labels/, or a stack.")],
    labels: Annotated[Path | None, typer.Option(help="Labels, if not beside the images.")] = None,
    output: Annotated[Path, typer.Option(help="Folder for JSON and overlays.")] = Path(
        "evaluation"
    ),
) -> None:
    """Score a model on labelled images: a table, JSON, and pictures of the errors."""
    from keras_unet.cli.report import progress, say, show_evaluation
    from keras_unet.evaluation.scoring import evaluate as run

    with progress("evaluating") as advance:
        result = run(model, images, labels, output=output, progress=advance)
    show_evaluation(result)
    say(f"Each image's scores: {output}/evaluation.json; errors: {output}/overlays/")
