"""Tables of a report: scores with their intervals, images to sort, the confusion matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from keras_unet.evaluation.descriptions import describe, show, show_range, title
from keras_unet.evaluation.html import Html, join, tag
from keras_unet.evaluation.record import Evaluation, flat

Path = tuple[str, ...]


class Cell(NamedTuple):
    """What is shown, and the number it is sorted by ("" = undefined)."""

    content: Any
    value: float | str


def sortable(
    columns: Sequence[tuple[str, str]],
    rows: Mapping[str, Sequence[Cell]],
    *,
    caption: str,
    gallery: str | None = None,
) -> Html:
    """A table whose columns sort it, and the gallery below, at a click.

    Args:
        columns: title and first direction ("ascending" or "descending") of each.
        rows: by the name of the image that they speak of.
        gallery: id of the element that holds the images' pictures.
    """
    heads = [
        tag("th", tag("button", text, type="button"), scope="col", data_first=first)
        for text, first in columns
    ]
    lines = [
        tag("tr", [_cell(cell) for cell in cells], data_image=name) for name, cells in rows.items()
    ]
    table = tag(
        "table",
        tag("thead", tag("tr", heads)),
        tag("tbody", lines),
        class_="sortable",
        data_gallery=gallery,
        aria_label=caption,
    )
    return tag("div", table, class_="table", tabindex="0", role="region", aria_label=caption)


def number_cell(path: Path, value: float | None) -> Cell:
    """A score in a sortable table."""
    return Cell("–" if value is None else show(path, value), "" if value is None else value)


def columns_of_images(evaluation: Evaluation) -> list[Path]:
    """Scores worth a column of their own, image by image."""
    foreground = evaluation.classes[1:]
    wanted: list[Path] = [("mean_iou",), ("mean_dice",), ("pixel_error",)]
    wanted += [("iou", name) for name in foreground]
    wanted += [("boundary_f1", name) for name in foreground]
    wanted += [("hausdorff95", name) for name in foreground]
    wanted += [("objects", name) for name in ("f1", "seg", "merged", "split")]
    wanted += [("isbi", name) for name in ("v_rand", "v_info", "pixel_error")]
    held = flat(evaluation.total)
    return [path for path in wanted if path in held]


def by_class(evaluation: Evaluation) -> Html:
    """One line a class: IoU, Dice, precision, recall, boundaries, AP, each with its interval."""
    names = ["iou", "dice", "precision", "recall", "boundary_f1", "hausdorff95"]
    names += ["average_precision"]
    intervals = flat(evaluation.intervals)
    heads = [
        tag("th", describe((name, "*")).title, scope="col", title=describe((name, "*")).meaning)
        for name in names
    ]
    rows = []
    for label in evaluation.classes:
        cells = [
            _score(path, evaluation.total[path[0]][label], intervals.get(path))
            for path in ((name, label) for name in names)
        ]
        rows.append(tag("tr", tag("th", label, scope="row"), cells))
    head = tag("thead", tag("tr", tag("th", "class", scope="col"), heads))
    return tag("div", tag("table", head, tag("tbody", rows)), class_="scroll")


def score_list(evaluation: Evaluation, paths: Sequence[Path]) -> Html:
    """One line a score: its value, interval, and what it says."""
    scores, intervals = flat(evaluation.total), flat(evaluation.intervals)
    rows = [
        tag(
            "tr",
            tag("th", title(path), scope="row"),
            _score(path, scores[path], intervals.get(path)),
            tag("td", describe(path).meaning, class_="words"),
        )
        for path in paths
        if path in scores
    ]
    return tag("div", tag("table", tag("tbody", rows)), class_="scroll")


def confusion_table(evaluation: Evaluation) -> Html:
    """Pixels by true class (row) and predicted class (column), as shares of the row."""
    matrix = sum(np.asarray(counts["confusion"]) for counts in evaluation.counts.values())
    names = evaluation.classes
    rows = []
    for name, row in zip(names, np.asarray(matrix), strict=True):
        whole = max(int(row.sum()), 1)
        cells = [
            tag(
                "td",
                f"{count / whole:.1%}",
                tag("span", f"{int(count):,} px", class_="range"),
                class_=f"h{min(int(10 * count / whole), 9)}",
            )
            for count in row
        ]
        rows.append(tag("tr", tag("th", name, scope="row"), cells))
    over = (tag("td"), tag("th", "predicted", scope="colgroup", colspan=len(names)))
    heads = [tag("th", name, scope="col") for name in names]
    head = tag("thead", tag("tr", over), tag("tr", tag("th", "true", scope="col"), heads))
    return tag("div", tag("table", head, tag("tbody", rows), class_="matrix"), class_="scroll")


def _score(path: Path, value: float | None, limits: Sequence[float | None] | None) -> Html:
    text = show_range(path, limits)
    return tag("td", show(path, value), tag("span", text, class_="range") if text else None)


def _cell(cell: Cell) -> Html:
    value = f"{cell.value:.6g}" if isinstance(cell.value, float) else cell.value
    return tag("td", join(cell.content), data_value=value)
