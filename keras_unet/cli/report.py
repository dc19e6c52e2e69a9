"""What several commands print: tables of scores and progress bars."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from keras_unet.evaluation.scoring import Evaluation

console = Console(highlight=False)


def say(text: str) -> None:
    """Prints a line as it is: paths are no markup, and commands to copy are not wrapped."""
    console.print(text, markup=False, soft_wrap=True)


def show_evaluation(evaluation: Evaluation) -> None:
    """Prints the scores over all pixels, one line a class."""
    total = evaluation.total
    table = Table(title=f"{len(evaluation.images)} images", title_justify="left")
    table.add_column("class")
    table.add_column("IoU", justify="right")
    table.add_column("Dice", justify="right")
    for name in total["iou"]:
        table.add_row(name, _number(total["iou"][name]), _number(total["dice"][name]))
    table.add_row("mean", _number(total["mean_iou"]), _number(total["mean_dice"]), style="bold")
    console.print(table)
    console.print(f"pixel error {_number(total['pixel_error'])}")
    if objects := total.get("objects"):
        console.print(
            f"objects at IoU 0.5: F1 {_number(objects['f1'])}, "
            f"precision {_number(objects['precision'])}, recall {_number(objects['recall'])}"
            f"; SEG {_number(objects['seg'])}"
        )


@contextmanager
def progress(title: str) -> Iterator[Callable[[int, int], None]]:
    """A bar with time left, as a function of (done, total)."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _number(value: float | None) -> str:
    return "absent" if value is None else f"{value:.4f}"
