"""Scores as people read them: titles, which way is better, what each says; tables of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from rich import box
from rich.table import Table
from rich.text import Text

from keras_unet.console import TERMINAL, say
from keras_unet.evaluation.evaluation import Evaluation, flat

if TYPE_CHECKING:
    from keras_unet.evaluation.comparison import Comparison

ScorePath = tuple[str, ...]


class Description(NamedTuple):
    """A score in words. better: "higher", "lower", or "" for a plain count or a matter of taste."""

    title: str
    better: Literal["higher", "lower", ""]
    meaning: str
    digits: int = 4
    highest: float | None = 1.0  # possible; None: there is no end. The lowest is 0 for all


HIGHER: Literal["higher"] = "higher"
LOWER: Literal["lower"] = "lower"

# by path; "*" stands for the name of a class
_DESCRIPTIONS: dict[ScorePath, Description] = {
    ("mean_iou",): Description(
        "mean IoU", HIGHER, "mean of the classes' IoUs; classes in neither are left out"
    ),
    ("mean_dice",): Description("mean Dice", HIGHER, "mean of the classes' Dice scores"),
    ("pixel_error",): Description("pixel error", LOWER, "share of wrong pixels"),
    ("pixel_accuracy",): Description("pixel accuracy", HIGHER, "share of right pixels"),
    ("iou", "*"): Description("IoU", HIGHER, "pixels in both / pixels in either"),
    ("dice", "*"): Description("Dice", HIGHER, "2 · pixels in both / sum of both areas"),
    ("precision", "*"): Description("precision", HIGHER, "predicted pixels that are right"),
    ("recall", "*"): Description("recall", HIGHER, "true pixels that were found"),
    ("boundary_f1", "*"): Description(
        "boundary F1", HIGHER, "outline pixels within the tolerance of the other outline"
    ),
    ("hausdorff95", "*"): Description(
        "HD95, px",
        LOWER,
        "95 % of outline pixels are at most so far off; mean over images",
        2,
        None,
    ),
    ("hausdorff95_undefined", "*"): Description(
        "HD95 undefined",
        "",
        "images where only truth or only the prediction has the class",
        0,
        None,
    ),
    ("average_precision", "*"): Description(
        "AP", HIGHER, "area under the precision-recall curve of pixels"
    ),
    ("wrong_near_outline",): Description(
        "wrong near outlines", "", "share of the wrong pixels that lie within the tolerance of one"
    ),
    ("calibration_error",): Description(
        "calibration error", LOWER, "mean gap of confidence and accuracy (ECE, 15 groups)"
    ),
    ("brier",): Description(
        "Brier score", LOWER, "squared error of the probabilities, 0 to 2", highest=2.0
    ),
    ("objects", "f1"): Description("object F1", HIGHER, "at IoU 0.5"),
    ("objects", "precision"): Description(
        "object precision", HIGHER, "predicted objects that match a true one at IoU 0.5"
    ),
    ("objects", "recall"): Description("object recall", HIGHER, "true objects found at IoU 0.5"),
    ("objects", "seg"): Description(
        "SEG", HIGHER, "Cell Tracking Challenge: mean Jaccard index of the true objects"
    ),
    ("objects", "pq"): Description("panoptic quality", HIGHER, "PQ = SQ · RQ"),
    ("objects", "sq"): Description("SQ", HIGHER, "mean IoU of the matched objects"),
    ("objects", "rq"): Description("RQ", HIGHER, "the same as object F1"),
    ("objects", "map_dsb2018"): Description(
        "mAP, DSB 2018", HIGHER, "TP / (TP + FP + FN), mean over IoU 0.5 … 0.95 and over images"
    ),
    ("objects", "map_pooled"): Description(
        "mAP, pooled", HIGHER, "the same of the counts of all images"
    ),
    ("objects", "average_precision", "*"): Description(
        "AP at IoU", HIGHER, "TP / (TP + FP + FN) at this IoU, pooled"
    ),
    ("objects", "true_positives"): Description("found", "", "objects matched at IoU 0.5", 0, None),
    ("objects", "false_positives"): Description(
        "false", "", "predicted objects without match", 0, None
    ),
    ("objects", "false_negatives"): Description(
        "missed", "", "true objects without match", 0, None
    ),
    ("objects", "merged"): Description(
        "merged", "", "predicted objects that hold most of two or more true ones", 0, None
    ),
    ("objects", "split"): Description(
        "split", "", "true objects that hold most of two or more predicted ones", 0, None
    ),
    ("isbi", "v_rand"): Description("V_Rand", HIGHER, "after thinning, best threshold"),
    ("isbi", "v_info"): Description("V_Info", HIGHER, "after thinning, best threshold"),
    ("isbi", "pixel_error"): Description("pixel error, 2012", LOWER, "1 − largest F-score"),
    ("isbi", "rand_error"): Description("Rand error, 2012", LOWER, "1 − largest F-score of pairs"),
    ("isbi", "warping_error"): Description(
        "warping error, 2012", LOWER, "pixels that split or merge objects, of all pixels", 6
    ),
}


def describe(path: ScorePath) -> Description:
    """The description of a score by its path in `Evaluation.total`."""
    for pattern in (path, (*path[:-1], "*")):
        if pattern in _DESCRIPTIONS:
            return _DESCRIPTIONS[pattern]
    return Description(" ".join(path), "", "", highest=None)


def title(path: ScorePath) -> str:
    """The title with the class behind it: "IoU, cell"."""
    named = describe(path).title
    return named if path in _DESCRIPTIONS else f"{named}, {path[-1]}"


def has_interval(path: ScorePath) -> bool:
    """Plain counts have none."""
    return describe(path).digits > 0


def show(path: ScorePath, value: float | None) -> str:
    """The value as people read it."""
    return "undefined" if value is None else f"{value:.{describe(path).digits}f}"


def show_range(path: ScorePath, limits: Sequence[float | None] | None) -> str:
    """An interval as people read it, "0.812 – 0.931", or nothing."""
    if not limits or limits[0] is None or limits[1] is None:
        return ""
    digits = max(describe(path).digits - 1, 2)
    return f"{limits[0]:.{digits}f} – {limits[1]:.{digits}f}"


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
    TERMINAL.print(table)

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
        say(note, "dim")


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
    TERMINAL.print(table)
    if comparison.left_out:
        say(f"left out, since only one has them: {', '.join(comparison.left_out)}")
    for note in comparison.notes:
        say(note, "dim")


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
    TERMINAL.print(table)
