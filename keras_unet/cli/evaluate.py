"""`keras-unet evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from keras_unet.cli.options import (
    ClassNames,
    Diameter,
    FillHoles,
    ImagePixelSize,
    MinSize,
    Neck,
    Normalization,
    SeedDistance,
    Split,
    Threshold,
    finding,
)


def evaluate(
    model: Annotated[Path, typer.Argument(help="A run folder, .keras file or pretrained name.")],
    images: Annotated[Path, typer.Argument(help="Folder with images/ and labels/, or a stack.")],
    labels: Annotated[Path | None, typer.Option(help="Labels, if not beside the images.")] = None,
    instances: Annotated[
        bool,
        typer.Option("--instances", help="Each number in the labels is one object; else as known."),
    ] = False,
    normalization: Normalization = None,
    class_names: ClassNames = None,
    output: Annotated[Path, typer.Option(help="Folder for report, JSON and overlays.")] = Path(
        "evaluation"
    ),
    objects: Annotated[
        bool, typer.Option("--objects", help="Score objects of class labels too: components.")
    ] = False,
    object_class: Annotated[
        str | None, typer.Option(help="Only components of this class are objects.")
    ] = None,
    threshold: Threshold = None,
    split: Split = None,
    neck: Neck = None,
    seed_distance: SeedDistance = None,
    min_size: MinSize = None,
    fill_holes: FillHoles = None,
    diameter: Diameter = None,
    pixel_size: ImagePixelSize = None,
    isbi: Annotated[
        bool, typer.Option("--isbi", help="Also the ISBI 2012 challenge's metrics (slow).")
    ] = False,
    tolerance: Annotated[
        float, typer.Option(min=0.0, help="Pixels that an outline may be off, for boundary F1.")
    ] = 2.0,
    symmetries: Annotated[
        str, typer.Option(help="Average over versions of the input: none, flips, all, rotations7.")
    ] = "none",
    tile: Annotated[int | None, typer.Option(help="Largest input tile in pixels.")] = None,
) -> None:
    """Score a model on labelled images: a table, JSON, and a report with pictures of the errors."""
    from keras_unet.console import progress, say
    from keras_unet.data.label_rule import LabelRule
    from keras_unet.evaluation.evaluation import show_evaluation
    from keras_unet.evaluation.scoring import evaluate as run

    settings = {
        "tolerance": tolerance,
        "objects": True if objects or object_class is not None else None,
        "object_class": object_class,
        **finding(threshold, split, neck, seed_distance, min_size, fill_holes),
        "isbi": isbi,
    }
    chosen = {
        "tile": tile,
        "symmetries": symmetries,
        "diameter": diameter,
        "pixel_size": pixel_size,
    }
    with progress("evaluating") as advance:
        result = run(
            model,
            images,
            labels,
            rule=LabelRule(kind="instances") if instances else None,
            normalization=normalization,
            class_names=class_names,
            output=output,
            settings=settings,
            prediction={k: v for k, v in chosen.items() if v not in (None, "none")},
            progress=advance,
        )
    show_evaluation(result)
    say(f"Open     {output}/report.html (scores, pictures of the errors, what to look at next)")
    say(f"Compare  keras-unet compare {output} ANOTHER_EVALUATION")
