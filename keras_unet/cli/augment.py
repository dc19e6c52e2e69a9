"""`keras-unet augment`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def _show(wanted: bool) -> None:
    if wanted:
        from keras_unet.augment.settings import AugmentSettings
        from keras_unet.settings import describe

        typer.echo(describe(AugmentSettings))
        raise typer.Exit


def augment(
    image: Annotated[Path, typer.Argument(help="An image of yours: PNG, TIFF or JPEG.")],
    label: Annotated[
        Path | None, typer.Argument(help="Its labels: their outlines are drawn too.")
    ] = None,
    preset: Annotated[
        str, typer.Option(help="paper, none, flips or nnunet: the strengths to look at.")
    ] = "paper",
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change one option: --set elastic_sigma=5"),
    ] = None,
    out: Annotated[
        Path, typer.Option("--output", "--out", help="The picture to write (PNG, PDF, SVG).")
    ] = Path("augment.png"),
    seed: Annotated[int, typer.Option(help="Another seed, other draws.")] = 0,
    rows: Annotated[int, typer.Option(min=1, max=10, help="Rows of the grid.")] = 2,
    columns: Annotated[int, typer.Option(min=1, max=10, help="Columns of the grid.")] = 4,
    page: Annotated[int | None, typer.Option(help="Which page of a TIFF stack.")] = None,
    _: Annotated[
        bool,
        typer.Option(
            "--show-settings",
            is_eager=True,
            callback=_show,
            help="List every option and its default, and end.",
        ),
    ] = False,
) -> None:
    """Draw what training will see: warped copies of an image, the lattice and label outlines."""
    from matplotlib.backend_bases import FigureCanvasBase

    from keras_unet.augment.picture import draw_samples
    from keras_unet.augment.settings import preset_settings
    from keras_unet.console import say
    from keras_unet.data.images import read_image, read_labels
    from keras_unet.errors import ConfigError, DataError
    from keras_unet.settings import put

    out = out if out.suffix else out.with_suffix(".png")
    kinds = sorted(FigureCanvasBase.get_supported_filetypes())
    if out.suffix.lower().removeprefix(".") not in kinds:
        raise ConfigError(f"--output {out}: expected a name that ends in .{', .'.join(kinds)}")
    pixels = read_image(image, page)
    labels = None if label is None else read_labels(label, page)
    if labels is not None and labels.shape != pixels.shape[:2]:
        raise DataError(
            f"{label}: found {labels.shape[0]}×{labels.shape[1]} labels for an image of "
            f"{pixels.shape[0]}×{pixels.shape[1]} pixels ({image}); expected equal sizes"
        )
    given = put({}, setting or [])
    given = {name: None if value == "null" else value for name, value in given.items()}
    settings = preset_settings(preset, **given)
    figure = draw_samples(
        pixels,
        labels,
        settings,
        seed=seed,
        rows=rows,
        columns=columns,
        title=f"{preset}, seed {seed}",
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out)
    say(
        f"{rows * columns - 1} draws of preset {preset!r} in {out}. If your cells look torn or "
        "folded, lower the strength (--set elastic_sigma=5) until they look like other cells."
    )
