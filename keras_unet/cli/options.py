"""Command of `keras-unet`: what all have in common, and options that several share."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from typer.core import TyperCommand

from keras_unet.console import keep_quiet
from keras_unet.remote_path import local_path

if TYPE_CHECKING:
    from keras_unet.serving.card import CardFields

Function = TypeVar("Function", bound=Callable[..., Any])
_QUIET = Annotated[bool, typer.Option("--quiet", "-q", help="Show errors only.")]


def command(app: typer.Typer) -> Callable[[Function], Function]:
    """Makes a function a command of `app`: its paths are on this machine, and `-q` is there."""

    def register(function: Function) -> Function:
        @wraps(function)
        def run(*, quiet: bool, **options: Any) -> Any:
            keep_quiet(quiet)
            return function(**options)

        own = inspect.signature(function, eval_str=True)
        added = inspect.Parameter(
            "quiet", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=_QUIET
        )
        every = [*own.parameters.values(), added]
        run.__signature__ = own.replace(parameters=every)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in every}
        app.command(cls=_LocalPaths)(run)
        return function

    return register


class _LocalPaths(TyperCommand):
    """Refuses gs://… and the like before anything is done, as a `Path` would make "gs:/" of it.

    What may be remote is declared as `str`.
    """

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]  # of typer's own click
        for option in self.params:
            value = ctx.params.get(option.name or "")
            for one in value if isinstance(value, (list, tuple)) else (value,):
                if isinstance(one, Path):
                    name = option.opts[0]
                    local_path(one, name if name.startswith("-") else name.upper())
        return super().invoke(ctx)


Labels = Annotated[
    Path | None, typer.Option(help="Labels, if not beside the images: a folder or a stack.")
]
Validation = Annotated[
    Path | None,
    typer.Option(help="Labelled images to validate on; otherwise a fifth is held out."),
]
ValidationLabels = Annotated[
    Path | None, typer.Option(help="Their labels, if not beside the images.")
]
Instances = Annotated[
    bool, typer.Option("--instances", help="Label numbers are objects, not classes.")
]
Config = Annotated[Path | None, typer.Option(help="Settings as a TOML file.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="One setting, e.g. minutes=20."),
]
Resume = Annotated[
    Path | None, typer.Option(metavar="RUN", help="Go on with a run that was killed or stopped.")
]
ShowSettings = Annotated[
    bool, typer.Option("--show-settings", help="List every setting and its default, and end.")
]


def data_section(
    images: Path | None, labels: Path | None, instances: bool, **others: Path | None
) -> dict[str, Any]:
    """The section `data` of a run's settings, as these options give it; None is not given."""
    kind = "instances" if instances else None
    return {"images": images, "labels": labels, "label_kind": kind, **others}


Normalization = Annotated[
    str | None,
    typer.Option(
        help="Of a script's model: image, none, a number that grey values are divided by, such as "
        "255, or JSON. Default: as they are. A trained model brings its own.",
    ),
]
ClassNames = Annotated[
    str | None, typer.Option(help="Of a script's model: background,cell. Default: made up.")
]
SCALE = "Scale (for models whose card states it)"
Diameter = Annotated[
    str | None,
    typer.Option(
        metavar="PX|auto",
        help="How large objects are here: the network sees the image at the scale that it knows. "
        "auto: estimated from each file.",
        rich_help_panel=SCALE,
    ),
]
ImagePixelSize = Annotated[
    str | None,
    typer.Option(
        "--pixel-size",
        metavar="UM|file",
        help="Instead: micrometres a pixel of the images; file: as each states.",
        rich_help_panel=SCALE,
    ),
]
OBJECTS = "Objects (of a model of instance labels; default: as its card says)"
Threshold = Annotated[
    float | None,
    typer.Option(min=0.0, max=1.0, help="Foreground above this.", rich_help_panel=OBJECTS),
]
Split = Annotated[
    str | None,
    typer.Option(
        help="Touching objects are cut apart: neck (where they are narrow), distance, none.",
        rich_help_panel=OBJECTS,
    ),
]
Neck = Annotated[
    float | None,
    typer.Option(help="For split neck: how narrow, as a share.", rich_help_panel=OBJECTS),
]
SeedDistance = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="For split distance: about the smallest object's radius, px.",
        rich_help_panel=OBJECTS,
    ),
]
MinSize = Annotated[
    int | None,
    typer.Option(min=0, help="Drop objects of fewer pixels.", rich_help_panel=OBJECTS),
]
FillHoles = Annotated[
    bool | None,
    typer.Option(
        "--fill-holes/--no-fill-holes", help="Holes belong to objects.", rich_help_panel=OBJECTS
    ),
]


def finding(
    threshold: float | None,
    split: str | None,
    neck: float | None,
    seed_distance: int | None,
    min_size: int | None,
    fill_holes: bool | None,
) -> dict[str, Any]:
    """The options of `keras_unet.models.Decoding`; None is not given."""
    return {
        "threshold": threshold,
        "split": split,
        "neck": neck,
        "seed_distance": seed_distance,
        "min_size": min_size,
        "fill_holes": fill_holes,
    }


Description = Annotated[str | None, typer.Option(help="For the model card.")]
Author = Annotated[list[str] | None, typer.Option(help="For the model card; may be repeated.")]
Licence = Annotated[
    str | None, typer.Option("--licence", "--license", help="Of the weights, e.g. CC-BY-4.0.")
]
DataLicence = Annotated[
    str | None, typer.Option("--data-licence", "--data-license", help="Of the training images.")
]
Citation = Annotated[str | None, typer.Option(help="What to cite.")]
PixelSize = Annotated[float | None, typer.Option(help="Of the training images, in micrometres.")]


def card_fields(
    description: str | None,
    author: list[str] | None,
    licence: str | None,
    data_licence: str | None,
    citation: str | None,
    pixel_size: float | None,
) -> CardFields:
    """The options as one object; raises ConfigError for one that is out of range."""
    from keras_unet.serving.card import CardFields
    from keras_unet.settings import validated

    given = {
        "description": description,
        "authors": author or (),
        "licence": licence,
        "data_licence": data_licence,
        "citation": citation,
        "pixel_size": pixel_size,
    }
    return validated(CardFields, given)


def parts(text: str) -> tuple[str, ...]:
    """The names in "labels, csv"."""
    return tuple(part.strip() for part in text.split(",") if part.strip())
