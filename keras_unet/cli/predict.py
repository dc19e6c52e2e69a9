"""`keras-unet predict`."""

from __future__ import annotations

from math import isfinite
from pathlib import Path
from shlex import quote
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
    finding,
    parts,
)
from keras_unet.inference.files.mask_formats import MASK_FORMATS
from keras_unet.inference.objects.object_formats import OBJECT_FORMATS

EXTRA = "Speed and exactness"
FILES = "Files"
SERVER = "On a server"


def predict(
    context: typer.Context,
    models: Annotated[
        list[Path],
        typer.Argument(
            metavar="MODEL...",
            help="A run folder, .keras file, folder of folds or pretrained name (see `models`); "
            "several are averaged. With --server: the model's name there.",
        ),
    ],
    images: Annotated[
        Path,
        typer.Argument(
            metavar="IMAGES", help="An image, a TIFF stack, a Zarr, or a folder of these."
        ),
    ],
    output: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("predictions"),
    normalization: Normalization = None,
    class_names: ClassNames = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            min=0.0, max=1.0, help="Foreground above this; default 0.5, or as the card says."
        ),
    ] = None,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite", help="Begin anew, and replace also files that are not its own."
        ),
    ] = False,
    split: Split = None,
    neck: Neck = None,
    seed_distance: SeedDistance = None,
    min_size: MinSize = None,
    fill_holes: FillHoles = None,
    diameter: Diameter = None,
    pixel_size: ImagePixelSize = None,
    masks: Annotated[
        bool,
        typer.Option(
            "--masks", help="Also write masks of classes beside objects.", rich_help_panel=FILES
        ),
    ] = False,
    probabilities: Annotated[
        bool,
        typer.Option("--probabilities", help="Also write probabilities.", rich_help_panel=FILES),
    ] = False,
    dtype: Annotated[
        str,
        typer.Option(help="Of probabilities: float32, float16, uint8.", rich_help_panel=FILES),
    ] = "float32",
    format: Annotated[
        str,
        typer.Option(help=f"Of masks: auto, {', '.join(MASK_FORMATS)}.", rich_help_panel=FILES),
    ] = "auto",
    objects: Annotated[
        str | None,
        typer.Option(
            help=f"Also write objects: of {', '.join(OBJECT_FORMATS)}.", rich_help_panel=FILES
        ),
    ] = None,
    overlays: Annotated[
        bool,
        typer.Option(
            "--overlays/--no-overlays", help="Draw masks over images.", rich_help_panel=FILES
        ),
    ] = True,
    border: Annotated[
        str | None,
        typer.Option(help="Objects: the class of lines between them.", rich_help_panel=FILES),
    ] = None,
    symmetries: Annotated[
        str,
        typer.Option(
            help="Average over versions of the image: none, flips (4), all (8), rotations7 "
            "(the paper's).",
            rich_help_panel=EXTRA,
        ),
    ] = "none",
    average: Annotated[
        str, typer.Option(help="What is averaged: probabilities, logits.", rich_help_panel=EXTRA)
    ] = "probabilities",
    blend: Annotated[
        str,
        typer.Option(
            help="Tiles: exact; for same padding also gaussian, flat.", rich_help_panel=EXTRA
        ),
    ] = "exact",
    overlap: Annotated[
        float, typer.Option(help="Share of a tile, for gaussian and flat.", rich_help_panel=EXTRA)
    ] = 0.25,
    tile: Annotated[
        int | None, typer.Option(help="Largest input tile in pixels.", rich_help_panel=EXTRA)
    ] = None,
    memory: Annotated[
        float | None,
        typer.Option(
            help="GB for the tiles; default: half of what is free.", rich_help_panel=EXTRA
        ),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Tiles computed together.", rich_help_panel=EXTRA)
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="float32, bfloat16, auto.", rich_help_panel=EXTRA)
    ] = None,
    server: Annotated[
        str | None,
        typer.Option(
            help="Let a server do it, such as grpc://127.0.0.1:8500; objects or masks only.",
            rich_help_panel=SERVER,
        ),
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option(help="File with the server's token.", rich_help_panel=SERVER)
    ] = None,
    certificate: Annotated[
        Path | None, typer.Option(help="Of the server, PEM.", rich_help_panel=SERVER)
    ] = None,
    client_certificate: Annotated[
        Path | None,
        typer.Option(help="Yours, PEM, for a server that asks.", rich_help_panel=SERVER),
    ] = None,
    client_key: Annotated[
        Path | None, typer.Option(help="Its private key, PEM.", rich_help_panel=SERVER)
    ] = None,
) -> None:
    """Segment images of any size; stopped, the same command goes on where it was."""
    if server is not None:
        _refuse_local(context)
        return _remotely(
            server,
            models,
            images,
            output,
            overwrite=overwrite,
            token_file=token_file,
            certificate=certificate,
            client_certificate=client_certificate,
            client_key=client_key,
        )
    from keras_unet.console import progress, say
    from keras_unet.errors import ConfigError
    from keras_unet.inference.files.file_predictor import predict_files

    if memory is not None and not (isfinite(memory) and memory > 0):
        raise ConfigError(f"--memory: expected gigabytes above 0, got {memory}")
    kinds = parts(objects or "")
    try:
        with progress("predicting") as advance:
            done = predict_files(
                models,
                images,
                output,
                normalization=normalization,
                class_names=class_names,
                overwrite=overwrite,
                progress=advance,
                say=say,
                **finding(threshold, split, neck, seed_distance, min_size, fill_holes),
                diameter=diameter,
                pixel_size=pixel_size,
                masks=masks,
                probabilities=probabilities,
                dtype=dtype,
                format=format,
                objects=kinds,
                border=border,
                overlays=overlays,
                symmetries=symmetries,
                average=average,
                blend=blend,
                overlap=overlap,
                tile=tile,
                memory=None if memory is None else max(1, int(memory * 1e9)),
                batch_size=batch_size,
                precision=precision,
            )
    except KeyboardInterrupt:
        say(f"Interrupted. What is done is kept in {output}: the same command goes on from there.")
        raise typer.Exit(130) from None
    count = f"{len(done.written)} file{'s' * (len(done.written) != 1)} segmented"
    if done.skipped:
        count += f", {len(done.skipped)} done already"
    look = f"Look at {output}/*_overlay.png first" if overlays else f"The results are in {output}"
    then = "" if kinds else f"; then measure: keras-unet objects {quote(str(output))}"
    say(f"{count}. {look}{then}")


def _refuse_local(context: typer.Context) -> None:
    """The server decides how its models predict; what the caller wants otherwise must not go lost.

    Raises:
        ConfigError: names each option that only a prediction on this machine has.
    """
    from keras_unet.errors import ConfigError

    local = ("models", "images", "output", "overwrite")
    remote = (
        *local,
        "quiet",
        "server",
        "token_file",
        "certificate",
        "client_certificate",
        "client_key",
    )
    given = []
    for option in context.command.params:
        source = context.get_parameter_source(option.name or "")
        if option.name not in remote and source is not None and source.name != "DEFAULT":
            value = context.params[option.name or ""]
            names = option.secondary_opts if value is False else option.opts
            given.append(names[0])
    if given:
        raise ConfigError(
            f"--server: it writes what the server computes, so {', '.join(given)} would be "
            "without effect; leave out, or predict without --server"
        )


def _remotely(
    server: str,
    models: list[Path],
    images: Path,
    output: Path,
    *,
    overwrite: bool,
    token_file: Path | None,
    certificate: Path | None,
    client_certificate: Path | None,
    client_key: Path | None,
) -> None:
    from keras_unet.console import progress, say
    from keras_unet.disk import read_text
    from keras_unet.errors import ConfigError
    from keras_unet.serving.client import Client, segment_files

    if len(models) != 1:
        raise ConfigError(f"--server: expected one model's name, got {len(models)}")
    token = None if token_file is None else read_text(token_file).strip()
    with (
        Client(
            server,
            token=token,
            certificate=certificate,
            client_certificate=client_certificate,
            client_key=client_key,
        ) as client,
        progress("predicting") as advance,
    ):
        written = segment_files(
            client, str(models[0]), images, output, overwrite=overwrite, progress=advance, say=say
        )
    say(f"{len(written)} file{'s' * (len(written) != 1)} written to {output}.")
