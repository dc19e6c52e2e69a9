"""What several commands print: tables of scores and progress bars."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich import box
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from keras_unet.console import Console
from keras_unet.evaluation.comparison import Comparison
from keras_unet.evaluation.descriptions import describe, show, show_range, title
from keras_unet.evaluation.record import Evaluation, flat

console = Console()


def say(text: str) -> None:
    """Prints a line as it is: paths are no markup, and commands to copy are not wrapped."""
    console.print(text, markup=False, soft_wrap=True)


def show_evaluation(evaluation: Evaluation) -> None:
    """Prints the scores over all pixels, one line a class, and those of objects."""
    total, intervals = evaluation.total, flat(evaluation.intervals)
    count = len(evaluation.images)
    table = Table(title=f"{count} image{'s' * (count != 1)}", title_justify="left")
    table.add_column("class")
    for name in ("IoU", "Dice", "boundary F1", "HD95, px"):
        table.add_column(name, justify="right")
    for name in total["iou"]:
        paths = [(key, name) for key in ("iou", "dice", "boundary_f1", "hausdorff95")]
        table.add_row(Text(name), *(show(path, total[path[0]][name]) for path in paths))
    means = [show((name,), total[name]) for name in ("mean_iou", "mean_dice")]
    table.add_row("mean", *means, "", "", style="bold")
    console.print(table)

    def line(*paths: tuple[str, ...]) -> None:
        held = flat(total)
        parts = []
        for path in paths:
            span = show_range(path, intervals.get(path))
            parts.append(f"{title(path)} {show(path, held[path])}" + (f" ({span})" if span else ""))
        say(", ".join(parts))

    line(("pixel_error",), ("calibration_error",))
    if "objects" in total:
        line(*(("objects", name) for name in ("f1", "seg", "map_dsb2018", "pq")))
        found = total["objects"]
        say(f"{found['merged']} merged, {found['split']} split")
    if "isbi" in total:
        line(*(("isbi", name) for name in ("v_rand", "v_info")))
        line(*(("isbi", name) for name in ("pixel_error", "rand_error", "warping_error")))
    for note in evaluation.notes:
        console.print(note, style="dim", markup=False)


def show_comparison(comparison: Comparison) -> None:
    """Prints the scores that both have, and the difference of B from A."""
    say(f"A  {comparison.a}\nB  {comparison.b}")
    count = len(comparison.images)
    # narrow, so that 80 columns hold it: the names of scores may wrap, numbers may not
    title_ = f"{count} image{'s' * (count != 1)}"
    table = Table(title=title_, title_justify="left", box=box.SIMPLE, pad_edge=False)
    table.add_column("score", min_width=11)
    for name in ("A", "B", "B − A", "interval", "better\n/ worse"):
        table.add_column(name, justify="right", no_wrap=True)
    shown: list[tuple[str, ...]] = [
        ("mean_iou",),
        ("mean_dice",),
        ("pixel_error",),
        ("calibration_error",),
    ]
    shown += [(key, name) for key in ("iou", "boundary_f1") for name in comparison.classes[1:]]
    shown += [("objects", name) for name in ("f1", "seg", "map_dsb2018", "pq")]
    shown += [("isbi", name) for name in ("v_rand", "v_info", "warping_error")]
    for one in comparison.differences:
        if one.difference is None or one.score not in shown:
            continue
        digits = describe(one.score).digits
        low_high = one.interval or ()
        clear = one.interval is not None and (one.interval[0] > 0 or one.interval[1] < 0)
        table.add_row(
            Text(title(one.score)),
            show(one.score, one.a),
            show(one.score, one.b),
            f"{one.difference:+.{digits}f}",
            " … ".join(f"{value:+.{digits}f}" for value in low_high),
            f"{one.wins} / {one.losses}",
            style="bold" if clear else "",
        )
    console.print(table)
    if comparison.left_out:
        say(f"left out, since only one has them: {', '.join(comparison.left_out)}")
    for note in comparison.notes:
        console.print(note, style="dim", markup=False)


def show_folds(report: dict[str, Any]) -> None:
    """Prints the main scores: mean and standard deviation over folds, and pooled."""
    mean, spread, pooled = (flat(report[name]) for name in ("mean", "std", "pooled"))
    table = Table(title=f"{report['folds']} folds of {report['images']} images")
    table.title_justify = "left"
    table.add_column("score")
    for name in ("mean", "standard deviation", "pooled"):
        table.add_column(name, justify="right")
    for path in (("mean_dice",), ("mean_iou",), ("pixel_error",), ("objects", "f1")):
        if path in mean:
            given = (show(path, part.get(path)) for part in (mean, spread, pooled))
            table.add_row(Text(title(path)), *given)
    console.print(table)


@contextmanager
def progress(title: str) -> Iterator[Callable[[int, int], None]]:
    """A bar with time left, as a function of (done, total)."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    shown = console.is_terminal  # else it would leave empty lines
    with Progress(*columns, console=console, transient=True, disable=not shown) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
