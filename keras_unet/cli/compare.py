"""`keras-unet compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def compare(
    run_a: Annotated[Path, typer.Argument(help="A run, or an output of `evaluate`.")],
    run_b: Annotated[Path, typer.Argument(help="Another, on the same images.")],
    output: Annotated[Path, typer.Option(help="The page to write; JSON goes beside it.")] = Path(
        "compare.html"
    ),
    common: Annotated[
        bool, typer.Option("--common", help="If the images differ: those that both have.")
    ] = False,
) -> None:
    """Two evaluations side by side: paired differences with intervals, pictures of both."""
    from keras_unet.console import say
    from keras_unet.evaluation.comparison import compare as run
    from keras_unet.evaluation.comparison import show_comparison

    output = output if output.suffix else output.with_suffix(".html")
    comparison = run(run_a, run_b, output=output, common=common)
    show_comparison(comparison)
    say(f"Open  {output} (every image of both beside each other)")
