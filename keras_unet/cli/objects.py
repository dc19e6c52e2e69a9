"""`keras-unet objects`."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import Annotated

import typer

from keras_unet.cli.options import parts
from keras_unet.inference.objects.object_formats import DEFAULT_FORMATS, OBJECT_FORMATS


def objects(
    masks: Annotated[
        Path,
        typer.Argument(help="A mask, a stack, or a folder of them, as `predict` writes them."),
    ],
    images: Annotated[
        Path | None, typer.Option(help="The images, for intensities and pictures.")
    ] = None,
    output: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("objects"),
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Also replace files that are not its own.")
    ] = False,
    formats: Annotated[
        str,
        typer.Option("--format", help=f"Any of {', '.join(OBJECT_FORMATS)}, by commas."),
    ] = ",".join(DEFAULT_FORMATS),
    pixel_size: Annotated[
        float | None, typer.Option(help="Micrometres a pixel; default: what the file states.")
    ] = None,
    min_size: Annotated[int, typer.Option(help="Drop objects of fewer pixels.")] = 0,
    fill_holes: Annotated[bool, typer.Option("--fill-holes", help="Fill holes.")] = False,
    split: Annotated[
        str | None,
        typer.Option(help="Cut touching objects apart: neck (where they are narrow), distance."),
    ] = None,
    neck: Annotated[
        float, typer.Option(help="For split neck: how narrow, as a share of the narrower part.")
    ] = 0.9,
    seed_distance: Annotated[
        int, typer.Option(help="For split distance: about the smallest object's radius, in pixels.")
    ] = 5,
    border_class: Annotated[
        int | None, typer.Option(help="The mask value of lines between touching objects.")
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(help="Read probabilities (--probabilities of predict) and cut here."),
    ] = None,
    connectivity: Annotated[
        int, typer.Option(help="4: touching at a corner is apart; 8: it is not.")
    ] = 4,
    instances: Annotated[
        bool, typer.Option("--instances", help="The mask's values are object numbers already.")
    ] = False,
    names: Annotated[
        list[str] | None,
        typer.Option("--name", metavar="VALUE=NAME", help="Name a mask value: --name 2=axon"),
    ] = None,
) -> None:
    """Masks to objects: numbers, a table of measurements, polygons for QuPath, ROIs for Fiji."""
    from keras_unet.console import progress, say
    from keras_unet.inference.objects.finding import make_settings, parse_names
    from keras_unet.inference.objects.mask_objects import objects_from_masks

    settings = make_settings(
        min_size=min_size,
        fill_holes=fill_holes,
        split=split,
        neck=neck,
        seed_distance=seed_distance,
        border=border_class,
        threshold=threshold,
        connectivity=connectivity,
        instances=instances,
        names=parse_names(names or []),
    )
    with progress("finding objects") as advance:
        found = objects_from_masks(
            masks,
            output,
            images=images,
            settings=settings,
            pixel_size=pixel_size,
            formats=parts(formats),
            overwrite=overwrite,
            progress=advance,
        )
    say(found.describe())
    say(f"Look at  {quote(str(output))}/*_objects.png: is each cell one object?")
    plain = split is None and border_class is None and not instances
    if found.objects and plain and not found.numbered:
        apart = "If touching cells became one object, add --split neck"
        say(f"{apart}; drop specks by --min-size 20.")
